"""What the HTTP service answers from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import Depends, Request

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


@dataclass(frozen=True, slots=True)
class Service:
    """indexes: one per scenario, looked up at each request. lag: body of `GET /v1/lag` but for freshness."""

    settings: ServeSettings
    scenarios: Mapping[str, ScenarioSettings]
    indexes: Mapping[str, ScenarioIndex]
    tracker: PendingEvents
    lag: LagReport
    ready: Readiness

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
