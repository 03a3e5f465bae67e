"""`GET /v1/users/{user}/embeddings/{scenario}`."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Query, Request

from store.base.user_id import user_id_fault
from store.http.auth import may_read
from store.http.models import Embedding, to_embedding
from store.http.problems import ProblemError, documented
from store.http.service import Current, CurrentWork, Service
from store.index.row_table import StoredRecord

LOOK_UP_SECONDS = 0.5
"""How often a request that waits looks whether its client still does, and its scenario still is."""
_MIN_OFFSET = re.compile(
    r"(?P<topic>[a-zA-Z0-9._-]{1,249}(#[0-9a-f]{8})?):(?P<partition>\d{1,9}):(?P<offset>\d{1,18})", re.ASCII
)

router = APIRouter(tags=["embeddings"], dependencies=[Depends(may_read)])


@router.get(
    "/v1/users/{user:path}/embeddings/{scenario}",
    response_model=Embedding,
    responses=documented("user_unknown", "scenario_unknown", "not_covered", "request_invalid", "not_ready"),
)
async def get_embedding(
    request: Request,
    service: Current,
    work: CurrentWork,
    user: str,
    scenario: str,
    min_offset: Annotated[
        list[str] | None,
        Query(description="`topic:partition:offset` of a raw event: wait until the embedding covers it; repeatable"),
    ] = None,
    timeout_ms: Annotated[int, Query(ge=0, le=60_000, description="how long to wait for `min_offset`")] = 5000,
) -> Embedding:
    """A user's newest embedding for a scenario. Slashes in a user id may be given as they are or as %2F."""
    if fault := user_id_fault(user):
        raise ProblemError("request_invalid", f"path.user: {fault}")
    index = service.index(scenario)
    wanted = _parse(min_offset or [], service.source_of)
    stored = await run_sync(index.get, user)
    if wanted and timeout_ms and (stored is None or not _covers(stored, wanted)):
        with work.waits.offsets.entered():
            stored = await _wait(request, service, scenario, user, wanted, timeout_ms / 1000)
        stored = stored or await run_sync(index.get, user)
    service.same_index(scenario, index)
    if stored is None and not wanted:
        raise ProblemError("user_unknown", f"user {user!r} has no embedding for {scenario!r}")
    if stored is None or not _covers(stored, wanted):
        covered = stored.record.covers if stored is not None else {}
        detail = f"after {timeout_ms} ms the embedding does not cover {', '.join(min_offset or [])}"
        raise ProblemError("not_covered", detail, covered=covered)
    pending = await run_sync(service.tracker.pending, user, stored.record.covers)
    return to_embedding(stored, pending, other_query=service.other_query(scenario))


async def _wait(
    request: Request, service: Service, scenario: str, user: str, wanted: Mapping[str, int], seconds: float
) -> StoredRecord | None:
    """The record once it covers `wanted`; None if it does not in time, or nobody waits any more.

    Raises ProblemError: scenario_unknown, when the scenario is retired meanwhile.
    """
    index = service.index(scenario)
    deadline = time.monotonic() + seconds
    news = asyncio.Event()
    with index.watchers.watch(user, partial(asyncio.get_running_loop().call_soon_threadsafe, news.set)):
        news.set()  # between the look before this one and the watching
        while True:
            if news.is_set():
                news.clear()
                stored = await run_sync(index.get, user)
                if stored is not None and _covers(stored, wanted):
                    return stored
            left = deadline - time.monotonic()
            if left <= 0 or await request.is_disconnected():
                return None
            with anyio.move_on_after(min(left, LOOK_UP_SECONDS)):
                await news.wait()
            index = service.same_index(scenario, index)


def _covers(stored: StoredRecord, wanted: Mapping[str, int]) -> bool:
    return all(stored.record.covers.get(source, -1) >= offset for source, offset in wanted.items())


def _parse(values: list[str], source_of: Callable[[str], str]) -> dict[str, int]:
    wanted: dict[str, int] = {}
    for value in values:
        found = _MIN_OFFSET.fullmatch(value)
        if found is None:
            raise ProblemError("request_invalid", f"query.min_offset: {value[:300]!r} is not topic:partition:offset")
        source = f"{source_of(found['topic'])}:{found['partition']}"
        wanted[source] = max(int(found["offset"]), wanted.get(source, -1))
    return wanted
