"""Lag, the account, health, metrics and the API's own description."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from store.base import pulse
from store.http.auth import may_read
from store.http.description import Description
from store.http.models import Health
from store.http.problems import ProblemError, documented
from store.http.service import Current, CurrentWork
from store.records.scenario import other_query

LAG_SECONDS = 10.0
"""Longest wait for a reading of lag or of the account, which is then still under way."""

open_router = APIRouter(tags=["health"])
"""Needs no token."""
router = APIRouter(tags=["operations"], dependencies=[Depends(may_read)])


@open_router.get("/livez", response_model=Health, responses=documented("not_alive", open_to_all=True))
async def livez() -> Health:
    """The process answers, and what feeds the indexes comes round."""
    if (silent := pulse.silent_seconds()) > pulse.SILENT_SECONDS:
        raise ProblemError("not_alive", f"what reads Kafka for the indexes last came round {silent:.0f} s ago")
    return Health()


@open_router.get("/readyz", response_model=Health, responses=documented("not_ready", open_to_all=True))
async def readyz(service: Current) -> Health:
    """Everything that was in Kafka at the start is queryable."""
    if not service.ready.is_set():
        raise ProblemError("not_ready", "the indexes are being restored from Kafka")
    return Health(warnings=[other_query(name, of) for name, of in service.other_queries().items()])


@open_router.get("/metrics", response_class=Response)
async def get_metrics(work: CurrentWork) -> Response:
    """Prometheus metrics of this process."""
    return Response(await work.metrics.get(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/lag", responses=documented("lag_unavailable"))
async def get_lag(request: Request, service: Current, work: CurrentWork) -> dict[str, Any]:
    """Consumer lag per group, topic and partition, and freshness: seconds from a raw event to its embedding queryable.

    `freshness_seconds` is that of the last minutes, null without events; `freshness` has counts and what is pending.
    `other_query`: {scenario: partitions whose workers compute another query for it than this service has}.
    """
    with work.waits.readings.entered():
        lag = await work.lag.get(wait_seconds=LAG_SECONDS)
    now_ms = time.time_ns() // 1_000_000
    report = await work.pools.overviews.run(request, lambda _: service.tracker.report(now_ms=now_ms))
    recent = report["recent"]
    fresh = {"p50": recent["p50"], "p99": recent["p99"]} if recent["count"] else None
    return {**lag, "freshness_seconds": fresh, "freshness": report, "other_query": service.other_queries()}


@router.get("/v1/account", responses=documented("account_unavailable"))
async def get_account(work: CurrentWork) -> dict[str, Any]:
    """What became of everything that was published, by raw topic and modality, and how it adds up."""
    with work.waits.readings.entered():
        return await work.account.get(wait_seconds=LAG_SECONDS)


@router.get("/openapi.json", include_in_schema=False)
async def get_openapi(request: Request) -> Response:
    """This API, as OpenAPI 3.1."""
    description: Description = request.app.state.description
    return Response(await description.get(), media_type="application/json")
