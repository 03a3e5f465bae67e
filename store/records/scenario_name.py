"""Names of scenarios as models compute them: `churn` is the model's, `churn@NAME` the candidate NAME's."""

from __future__ import annotations

from collections.abc import Iterable

_MARK = "@"


def of_candidate(scenario: str, candidate: str) -> str:
    """Name of a scenario as a candidate computes it; candidate "" = the model itself."""
    return f"{scenario}{_MARK}{candidate}" if candidate else scenario


def split(name: str) -> tuple[str, str]:
    """(scenario, candidate); "" = the model itself."""
    scenario, _, candidate = name.partition(_MARK)
    return scenario, candidate


def every(scenarios: Iterable[str], candidates: Iterable[str]) -> list[str]:
    """Each scenario by the model, then by each candidate."""
    models = ["", *candidates]
    return [of_candidate(scenario, candidate) for scenario in scenarios for candidate in models]
