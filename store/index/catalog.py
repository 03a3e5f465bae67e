"""The scenarios that are served, as they come and go: what every request looks its scenario up in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from store.index.index import ScenarioIndex
from store.index.row_meta import Coverage
from store.records.scenario import CONFIGURED, Registered


@dataclass(frozen=True, slots=True)
class ServedScenario:
    """A scenario and its index; of a candidate model too (`churn@NAME`), with the settings of its scenario."""

    entry: Registered
    index: ScenarioIndex

    @property
    def registered(self) -> bool:
        """Whether it was registered at run time; else it is of the configuration."""
        return self.entry.registration != CONFIGURED


class Catalog(Mapping[str, ServedScenario]):
    """By name. One thread writes, any thread reads: what it has looked up stays whole when the scenario goes."""

    def __init__(self, scenarios: Mapping[str, ServedScenario] | None = None) -> None:
        self._scenarios = dict(scenarios or {})  # replaced, never changed

    def __getitem__(self, name: str) -> ServedScenario:
        return self._scenarios[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scenarios)

    def __len__(self) -> int:
        return len(self._scenarios)

    def now(self) -> Mapping[str, ServedScenario]:
        """All of them, as of one moment."""
        return self._scenarios

    def put(self, name: str, served: ServedScenario) -> None:
        """Add or replace one."""
        self._scenarios = {**self._scenarios, name: served}

    def remove(self, name: str) -> None:
        """No effect when it is unknown."""
        self._scenarios = {other: served for other, served in self._scenarios.items() if other != name}

    def coverage(self, scenario: str, user_id: str) -> Coverage | None:
        """What is queryable of a user; None if nothing is, or the scenario has gone."""
        served = self._scenarios.get(scenario)
        return None if served is None else served.index.coverage(user_id)
