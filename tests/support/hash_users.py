"""A user encoder for tests of the worker: vectors from a hash of everything the model sees. Fast, means nothing."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from store.base.errors import WeightsError
from store.base.settings import ScenarioSettings
from store.records.embedding import DIM
from store.records.scenario_name import every, split
from store.window.user_window import UserWindow


class HashUsers:
    """Stands for `encoder.forward.model_set.ModelSet`. Equal windows, queries and models give equal vectors.

    model: names the weights. candidates: other models beside it. seconds: that each user takes.
    calls: what `encode` was asked, (users, scenarios). on_encode: called first.
    """

    def __init__(
        self, scenarios: dict[str, ScenarioSettings], *, model: str = "m", candidates: Sequence[str] = (),
        seconds: float = 0.0,
    ) -> None:  # fmt: skip
        self._model = model
        self._candidates = list(candidates)
        self._queries = {name: query for s, query in scenarios.items() for name in self.names_of(s)}
        self._seconds = seconds
        self.calls: list[tuple[list[str], list[str]]] = []
        self.on_encode: Callable[[], object] = lambda: None

    @property
    def scenarios(self) -> list[str]:
        return list(self._queries)

    def names_of(self, scenario: str) -> list[str]:
        return every([scenario], self._candidates)

    def add_scenario(self, name: str, scenario: ScenarioSettings) -> None:
        if scenario.prompt is not None:
            raise WeightsError(f"no prompt {scenario.prompt!r}", action="tune it", code="prompt_missing")
        self._queries[name] = scenario

    def remove_scenario(self, name: str) -> None:
        self._queries.pop(name, None)

    def model_id(self, scenario: str) -> str:
        return hashlib.blake2b(self._basis(scenario), digest_size=6).hexdigest()

    def tokens_of(self, scenarios: Sequence[str]) -> int:
        return 10 * len(scenarios)

    def encode(self, windows: Sequence[UserWindow], scenarios: Sequence[str]) -> NDArray[np.float32]:
        self.on_encode()
        self.calls.append(([window.user_id for window in windows], list(scenarios)))
        time.sleep(self._seconds * len(windows))
        return self.encode_from_scratch(windows, scenarios)

    def encode_from_scratch(self, windows: Sequence[UserWindow], scenarios: Sequence[str]) -> NDArray[np.float32]:
        out = np.empty((len(windows), len(scenarios), DIM), np.float32)
        for i, window in enumerate(windows):
            seen = "|".join(
                f"{name}:{m.summary.rows}:{m.ts.tolist()}:{m.names}" for name, m in sorted(window.modalities.items())
            )
            for j, scenario in enumerate(scenarios):
                digest = hashlib.blake2b(self._basis(scenario) + seen.encode(), digest_size=8).digest()
                vector = np.random.default_rng(int.from_bytes(digest, "big")).standard_normal(DIM)
                out[i, j] = vector / np.linalg.norm(vector)
        return out

    def _basis(self, scenario: str) -> bytes:
        return f"{self._model}|{split(scenario)[1]}|{self._queries[scenario].query}|".encode()
