"""`/v1/scenarios…`: what there is, who is near whom, and everybody's embedding page by page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Path, Query, Request, Response, status
from pydantic import ValidationError

from store.base.errors import AnchorstreamError
from store.base.settings import NAME, ScenarioSettings
from store.http.auth import may_change, may_read
from store.http.models import (
    BackFillProgress,
    Embedding,
    EmbeddingPage,
    Neighbor,
    NeighborsAnswer,
    NeighborsOf,
    NeighborsRequest,
    PartitionBackFill,
    Scenario,
    ScenarioBody,
    Scenarios,
    to_embedding,
    to_json,
    to_schema,
)
from store.http.pools import Stop
from store.http.problems import KINDS, ProblemError, documented, invalid
from store.http.service import Current, CurrentWork, Registrar, Service
from store.index.back_fill_board import BackFill
from store.index.catalog import ServedScenario
from store.index.index import ScenarioIndex, SearchResult
from store.index.row_table import StoredRecord
from store.index.selection import Filters

JSON = "application/json"
MAX_PAGE = 1000
Name = Annotated[str, Path(pattern=NAME, description="lower-case letters, digits and _, at most 63, letter first")]

router = APIRouter(prefix="/v1/scenarios", tags=["scenarios"], dependencies=[Depends(may_read)])


@router.get("", response_model=Scenarios, responses=documented("not_ready"))
async def list_scenarios(request: Request, service: Current, work: CurrentWork) -> Scenarios:
    """All scenarios."""
    return Scenarios(scenarios=await work.pools.overviews.run(request, lambda _: describe_all(service)))


@router.get("/{scenario}", response_model=Scenario, responses=documented("scenario_unknown", "not_ready"))
async def get_scenario(request: Request, service: Current, work: CurrentWork, scenario: str) -> Scenario:
    """One scenario."""
    served = service.scenario(scenario)
    return await work.pools.overviews.run(request, lambda _: describe(service, scenario, served))


@router.put(
    "/{scenario}",
    response_model=Scenario,
    dependencies=[Depends(may_change)],
    responses={
        201: {"model": Scenario, "description": "Registered"},
        **documented(
            "scenario_configured", "scenario_limit", "registry_unavailable", "not_ready", changes=True, body=True
        ),
    },
)
async def put_scenario(
    request: Request, service: Current, work: CurrentWork, scenario: Name, asked: ScenarioBody, response: Response
) -> Scenario:
    """Register a scenario, or change its query and prompt. Every known user is brought to it: see `back_fill`.

    201 when it is new. A changed one keeps its embeddings until the new ones replace them; the same again does nothing.
    """
    settings = ScenarioSettings(query=asked.query, prompt=asked.prompt)

    def change(_: Stop) -> Scenario:
        with _registry_problems():
            if _registrar(service).put(scenario, settings):
                response.status_code = status.HTTP_201_CREATED
        return describe(service, scenario, service.scenario(scenario))

    return await work.pools.changes.run(request, change)


@router.delete(
    "/{scenario}",
    status_code=status.HTTP_204_NO_CONTENT,
    dependencies=[Depends(may_change)],
    responses=documented("scenario_unknown", "scenario_configured", "registry_unavailable", "not_ready", changes=True),
)
async def retire_scenario(request: Request, service: Current, work: CurrentWork, scenario: str) -> None:
    """Retire a scenario that was registered, with all its embeddings."""

    def change(_: Stop) -> None:
        with _registry_problems():
            _registrar(service).retire(scenario)

    await work.pools.changes.run(request, change)


@router.post(
    "/{scenario}/neighbors",
    responses={200: {"model": NeighborsAnswer}, **documented("scenario_unknown", "not_ready", body=True)},
    openapi_extra={"requestBody": {"required": True, "content": {JSON: {"schema": to_schema(NeighborsRequest)}}}},
)
async def find_neighbors(request: Request, service: Current, work: CurrentWork, scenario: str) -> Response:
    """The users most similar to given users or vectors."""
    index = service.index(scenario)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        raise ProblemError("request_invalid", f"send a JSON body, with content-type: {JSON}")
    body = await request.body()

    def find(stop: Stop) -> bytes:
        # a long body takes tens of milliseconds to parse: on a thread of this kind of work, too
        try:
            asked = NeighborsRequest.model_validate_json(body)
        except ValidationError as exc:
            raise invalid(
                exc.errors(include_url=False, include_input=False, include_context=False), inside="body"
            ) from exc
        most = service.settings.max_k
        if asked.k > most:
            raise ProblemError("request_invalid", f"body.k: {asked.k} is more than serve.max_k = {most}")
        return _answer(scenario, asked, _search(index, asked, stop), other_query=service.other_query(scenario))

    return Response(await work.pools.searches.run(request, find), media_type=JSON)


@router.get(
    "/{scenario}/embeddings",
    responses={200: {"model": EmbeddingPage}, **documented("scenario_unknown", "request_invalid", "not_ready")},
)
async def export_embeddings(
    request: Request,
    service: Current,
    work: CurrentWork,
    scenario: str,
    after: Annotated[str, Query(description="the last page's `next`; empty = from the beginning")] = "",
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
) -> Response:
    """Embeddings of a scenario in order of user id."""
    index = service.index(scenario)

    def export(_: Stop) -> bytes:
        found = index.page(after, limit + 1)
        page = found[:limit]
        head = EmbeddingPage(embeddings=[], next=page[-1].record.user_id if len(found) > limit else None)
        other = service.other_query(scenario)
        return to_json(head, embeddings=(_embedding(service, stored, other) for stored in page))

    return Response(await work.pools.searches.run(request, export), media_type=JSON)


def _embedding(service: Service, stored: StoredRecord, other_query: bool) -> Embedding:
    pending = service.tracker.pending(stored.record.user_id, stored.record.covers)
    return to_embedding(stored, pending, other_query=other_query)


def _answer(scenario: str, asked: NeighborsRequest, found: SearchResult, *, other_query: bool) -> bytes:
    head = NeighborsAnswer(
        scenario=scenario,
        k=asked.k,
        exact=True,
        generation=found.generation,
        applied=found.applied,
        results=[],
        missing=found.missing,
        other_query=other_query,
    )
    results = (
        NeighborsOf(
            user_id=answer.user_id,
            model=answer.model,
            eligible=answer.eligible,
            neighbors=[Neighbor(user_id=near.user_id, score=near.score) for near in answer.neighbors],
        )
        for answer in found.answers
    )
    return to_json(head, results=results)


def _registrar(service: Service) -> Registrar:
    if service.registrar is None or not service.ready.is_set():
        raise ProblemError("not_ready", "serve is still starting; /readyz tells when it answers")
    return service.registrar


@contextmanager
def _registry_problems() -> Iterator[None]:
    try:
        yield
    except AnchorstreamError as exc:
        if exc.code in KINDS:
            raise ProblemError(exc.code, exc.detail, action=exc.action) from exc
        raise ProblemError("registry_unavailable", exc.detail, action=exc.action, cause=exc.code) from exc


def describe_all(service: Service) -> list[Scenario]:
    """Every scenario, by name. Raises ProblemError: not_ready."""
    if not service.ready.is_set():
        raise ProblemError("not_ready", "the indexes are being restored from Kafka; /readyz tells when they are")
    return [describe(service, name, served) for name, served in sorted(service.catalog.now().items())]


def describe(service: Service, name: str, served: ServedScenario) -> Scenario:
    """A scenario and its index."""
    index = served.index
    models = index.models()
    return Scenario(
        name=name,
        query=served.entry.settings.query,
        prompt=served.entry.settings.prompt,
        registered=served.registered,
        back_fill=_back_fill(service.back_fills.progress(name, served.entry)),
        other_query=list(service.back_fills.other_query(name, served.entry)),
        model=next(iter(models), None),
        models=models,
        users=len(index),
        generation=index.generation,
        applied=index.applied(),
    )


def _back_fill(found: BackFill | None) -> BackFillProgress | None:
    if found is None:
        return None
    return BackFillProgress(
        done=found.done,
        total=found.total,
        complete=found.complete,
        partitions=[
            PartitionBackFill(
                partition=record.partition,
                model=record.model or None,
                done=record.done,
                total=record.total,
                complete=record.complete,
                error=record.error or None,
                updated_at=record.updated_at,
            )
            for record in found.partitions
        ],
    )


def _search(index: ScenarioIndex, asked: NeighborsRequest, stop: Stop) -> SearchResult:
    allow = None if asked.allow is None else frozenset(asked.allow)
    filters = Filters(allow, frozenset(asked.deny), asked.min_score)
    users = [asked.user_id] if asked.user_id is not None else asked.user_ids
    if users is not None:
        return index.search_users(users, k=asked.k, exclude_self=asked.exclude_self, filters=filters, stop=stop)
    if asked.model is not None and asked.model not in (models := index.models()):
        raise ProblemError("request_invalid", f"body.model: not one of: {', '.join(models) or 'none, there is nobody'}")
    vectors = [asked.vector] if asked.vector is not None else asked.vectors or []
    try:
        queries = np.array(vectors, np.float64)
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused as not finite
            return index.search(queries.astype(np.float32), k=asked.k, filters=filters, model=asked.model, stop=stop)
    except ValueError as exc:
        name = "vector" if asked.vector is not None else "vectors"
        raise ProblemError("request_invalid", f"body.{name}: {exc}") from exc
