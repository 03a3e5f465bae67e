"""What the HTTP service answers from."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import Depends, Request
from prometheus_client import generate_latest

from store.base import metrics
from store.base.settings import ScenarioSettings, ServeSettings
from store.http.pools import Pools, Waits
from store.http.problems import ProblemError
from store.http.shared_reading import SharedReading
from store.http.shared_work import SharedWork
from store.index.back_fill_board import BackFillBoard
from store.index.catalog import Catalog, ServedScenario
from store.index.field_board import FieldBoard
from store.index.freshness import PendingEvents
from store.index.index import ScenarioIndex
from store.records.embed_messages import EmbedReply

ACCOUNT_FRESH_SECONDS = 2.0
"""Processors tell what they counted once a second."""
_METRICS = metrics.registry("serve")


class ReadBroker(Protocol):
    """Reads what the broker tells: a report. Raises AnchorstreamError when it does not answer."""

    def __call__(self) -> dict[str, Any]: ...


class Readiness(Protocol):
    """Whether everything that was there at the start is applied; a `threading.Event` is one."""

    def is_set(self) -> bool: ...


class Registrar(Protocol):
    """Registers and retires scenarios; blocks until the catalog says so."""

    def put(self, name: str, settings: ScenarioSettings) -> bool:
        """Whether the scenario is new. Raises AnchorstreamError: scenario_configured, scenario_limit, or the broker."""
        ...

    def retire(self, name: str) -> None:
        """Raises AnchorstreamError: scenario_unknown, scenario_configured, or the broker."""
        ...


class QueryEmbedder(Protocol):
    """Asks the worker of a user for the embedding of a query that nobody registered."""

    def ask(self, user_id: str, query: str, prompt: str | None, timeout_ms: int) -> Future[EmbedReply]:
        """Does not block and does not raise. The future ends within about `timeout_ms`, by an error reply if need be;
        it may be cancelled."""
        ...


@dataclass(frozen=True, slots=True)
class Service:
    """What requests are answered from.

    catalog: the scenarios, as they are at each request. lag: body of `GET /v1/lag` but for freshness. account: of
    `GET /v1/account`.
    back_fills: how far those of the scenarios are. fields: what ingest found in the last events.
    source_of: a raw topic's name in `covers`: one that was made anew has another.
    embedder: None = no ad-hoc queries. registrar: None = nothing can be registered.
    """

    settings: ServeSettings
    catalog: Catalog
    tracker: PendingEvents
    lag: ReadBroker
    account: ReadBroker
    ready: Readiness
    back_fills: BackFillBoard
    fields: FieldBoard
    embedder: QueryEmbedder | None = None
    registrar: Registrar | None = None
    source_of: Callable[[str], str] = lambda topic: topic

    def scenario(self, name: str) -> ServedScenario:
        """A scenario that is served; it stays whole for the caller when it is retired meanwhile.

        Raises:
            ProblemError: scenario_unknown, or not_ready: half an index would give wrong answers.
        """
        if not self.ready.is_set():
            raise ProblemError("not_ready", "the indexes are being restored from Kafka; /readyz tells when they are")
        served = self.catalog.get(name)
        if served is None:
            raise ProblemError("scenario_unknown", f"{name[:100]!r} is not one of: {', '.join(sorted(self.catalog))}")
        return served

    def index(self, scenario: str) -> ScenarioIndex:
        """A scenario's index. Raises ProblemError as `scenario`."""
        return self.scenario(scenario).index

    def other_query(self, scenario: str) -> bool:
        """Whether a worker computes another query for a scenario than this process has."""
        served = self.catalog.get(scenario)
        return served is not None and bool(self.back_fills.other_query(scenario, served.entry))

    def other_queries(self) -> dict[str, list[int]]:
        """{scenario: partitions whose workers compute another query for it}, of those where there are any."""
        now = self.catalog.now().items()
        found = {name: list(self.back_fills.other_query(name, served.entry)) for name, served in sorted(now)}
        return {name: partitions for name, partitions in found.items() if partitions}

    def same_index(self, scenario: str, index: ScenarioIndex) -> ScenarioIndex:
        """The same index, after a wait. Raises ProblemError: scenario_unknown, if it was retired meanwhile."""
        if self.index(scenario) is not index:
            raise ProblemError("scenario_unknown", f"{scenario!r} was retired meanwhile, and registered anew")
        return index


class Work:
    """What answers are computed with, beside the look-ups. One per application."""

    def __init__(self, service: Service) -> None:
        self.pools = Pools()
        self.metrics = SharedWork("metrics", lambda: generate_latest(_METRICS))
        self.waits = Waits(service.settings.max_connections)
        self.lag = SharedReading(service.lag)
        self.account = SharedReading(service.account, code="account_unavailable", fresh_seconds=ACCOUNT_FRESH_SECONDS)


async def _work(request: Request) -> Work:
    work: Work = request.app.state.work
    return work


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Current = Annotated[Service, Depends(_service)]
"""The service of a request."""
CurrentWork = Annotated[Work, Depends(_work)]
"""The application's."""
