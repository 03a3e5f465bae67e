"""What the HTTP service answers from."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import Depends, Request

from store.embed_messages import EmbedReply
from store.freshness import PendingEvents
from store.http.problems import ProblemError
from store.index import ScenarioIndex
from store.settings import ScenarioSettings, ServeSettings


class LagReport(Protocol):
    """Reads consumer lag; may ask the broker. Raises AnchorstreamError when it does not answer."""

    def __call__(self) -> dict[str, Any]: ...


class Readiness(Protocol):
    """Whether everything that was there at the start is applied; a `threading.Event` is one."""

    def is_set(self) -> bool: ...


class QueryEmbedder(Protocol):
    """Asks the worker of a user for the embedding of a query that nobody registered."""

    def ask(self, user_id: str, query: str, prompt: str | None, timeout_ms: int) -> Future[EmbedReply]:
        """Does not block and does not raise. The future ends within about `timeout_ms`, by an error reply if need be;
        it may be cancelled."""
        ...


@dataclass(frozen=True, slots=True)
class Service:
    """indexes: one per scenario, looked up at each request. lag: body of `GET /v1/lag` but for freshness.

    embedder: None = no ad-hoc queries.
    """

    settings: ServeSettings
    scenarios: Mapping[str, ScenarioSettings]
    indexes: Mapping[str, ScenarioIndex]
    tracker: PendingEvents
    lag: LagReport
    ready: Readiness
    embedder: QueryEmbedder | None = None

    def index(self, scenario: str) -> ScenarioIndex:
        """A scenario's index.

        Raises:
            ProblemError: scenario_unknown, or not_ready: half an index would give wrong answers.
        """
        if scenario not in self.scenarios:
            known = ", ".join(sorted(self.scenarios))
            raise ProblemError("scenario_unknown", f"{scenario!r} is not one of: {known}")
        if not self.ready.is_set():
            raise ProblemError("not_ready", "the indexes are being restored from Kafka; /readyz tells when they are")
        return self.indexes[scenario]


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Current = Annotated[Service, Depends(_service)]
"""The service of a request."""
