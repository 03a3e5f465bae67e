"""The model and its candidates, side by side over the same windows: scenario `churn` is also there as `churn@NAME`.

Each model has an encoder and KV pages of its own, so that nothing of one can enter the other's embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from encoder.forward.prompt_files import PromptFiles
from encoder.forward.user_encoder import Anchor, UserEncoder
from encoder.model.query_vectors import QueryVectors
from encoder.model.settings import ModelSettings
from store.base.errors import NotFoundError
from store.base.settings import ModalitySettings, ScenarioSettings
from store.records.embedding import DIM
from store.records.scenario_name import every, of_candidate, split
from store.window.user_window import UserWindow


class ModelSet:
    """Speaks of scenarios by name (store/records/scenario_name.py); otherwise as `UserEncoder`. Single-threaded."""

    def __init__(
        self,
        settings: ModelSettings,
        candidates: Mapping[str, ModelSettings],
        modalities: Mapping[str, ModalitySettings],
        scenarios: Mapping[str, ScenarioSettings],
        event_dim: int,
    ) -> None:
        """Load the models.

        Args:
            scenarios: of the model and each candidate; more may be added later.
            event_dim: of event vectors, `TextEncoder.dim`.

        Raises:
            WeightsError: weights, a checkpoint or a soft prompt is missing or does not fit; the action says what to do.
        """
        queries = QueryVectors()
        self._models = {
            name: _Model(UserEncoder(each, modalities, {}, event_dim, queries), each)
            for name, each in {"": settings, **candidates}.items()
        }
        for scenario, of in scenarios.items():
            for name in self.names_of(scenario):
                self.add_scenario(name, of)

    @property
    def main(self) -> UserEncoder:
        """The model itself, without candidates."""
        return self._models[""].encoder

    def encoder(self, candidate: str) -> UserEncoder:
        """A candidate's encoder."""
        return self._models[candidate].encoder

    @property
    def scenarios(self) -> list[str]:
        """Names that can be asked for."""
        return [
            of_candidate(scenario, candidate)
            for candidate, model in self._models.items()
            for scenario in model.encoder.scenarios
        ]

    def names_of(self, scenario: str) -> list[str]:
        """The scenario by each of the models; some of them may not be able to compute it."""
        return every([scenario], [candidate for candidate in self._models if candidate])

    def add_scenario(self, name: str, scenario: ScenarioSettings) -> None:
        """Make a scenario available, or replace it. Its soft prompt is loaded, or loaded anew if its file changed: then
        every scenario with this prompt gets another model id.

        Raises:
            WeightsError: its soft prompt is missing or does not fit. NotFoundError: no such candidate.
        """
        scenario_name, model = self._of(name)
        model.add(scenario_name, scenario)

    def remove_scenario(self, name: str) -> None:
        """Forget a scenario; no effect when it is unknown."""
        scenario, model = self._of(name)
        model.remove(scenario)

    def model_id(self, scenario: str) -> str:
        """As `UserEncoder.model_id`."""
        name, model = self._of(scenario)
        return model.encoder.model_id(name)

    def tokens_of(self, scenarios: Sequence[str]) -> int:
        """Tokens of a user's tails in all models: the least that a refresh of these scenarios computes."""
        return sum(self._models[c].encoder.tokens_of(names) for c, (_, names) in self._by_model(scenarios).items())

    def encode(self, windows: Sequence[UserWindow], scenarios: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings (users, scenarios, 128) in the order asked for.

        Raises:
            NotFoundError: a scenario or candidate is unknown.
        """
        return self._encode(windows, scenarios, lambda encoder: encoder.encode)

    def encode_from_scratch(self, windows: Sequence[UserWindow], scenarios: Sequence[str]) -> NDArray[np.float32]:
        """The same embeddings without any page read or written."""
        return self._encode(windows, scenarios, lambda encoder: encoder.encode_from_scratch)

    def anchor(self, scenario: ScenarioSettings) -> Anchor:
        """Of a query nobody registered, by the model itself. Raises WeightsError for a soft prompt that is missing."""
        model = self._models[""]
        if scenario.prompt is not None and not model.prompts.has(scenario.prompt):
            model.prompts.load(scenario.prompt)
        return model.encoder.anchor(scenario)

    def encode_anchors(self, windows: Sequence[UserWindow], anchors: Sequence[Anchor]) -> NDArray[np.float32]:
        """As `UserEncoder.encode_anchors`, by the model itself."""
        return self.main.encode_anchors(windows, anchors)

    def forget(self, user_id: str) -> None:
        """Drop a user's pages in all models."""
        for model in self._models.values():
            model.encoder.forget(user_id)

    def _of(self, name: str) -> tuple[str, _Model]:
        scenario, candidate = split(name)
        try:
            return scenario, self._models[candidate]
        except KeyError:
            known = ", ".join(each for each in self._models if each) or "none"
            raise NotFoundError(
                f"unknown candidate {candidate!r} of scenario {name!r} (known: {known})",
                action="check the name; candidates are configured under [candidates.NAME]",
            ) from None

    def _by_model(self, scenarios: Sequence[str]) -> dict[str, tuple[list[int], list[str]]]:
        """candidate → (positions in `scenarios`, names within that model)."""
        out: dict[str, tuple[list[int], list[str]]] = {}
        for i, name in enumerate(scenarios):
            scenario, _ = self._of(name)
            positions, names = out.setdefault(split(name)[1], ([], []))
            positions.append(i)
            names.append(scenario)
        return out

    def _encode(
        self, windows: Sequence[UserWindow], scenarios: Sequence[str], how: Callable[[UserEncoder], _Encode]
    ) -> NDArray[np.float32]:
        parts = self._by_model(scenarios)
        if list(parts) == [""]:
            return how(self.main)(windows, scenarios)
        out = np.empty((len(windows), len(scenarios), DIM), np.float32)
        for candidate, (positions, names) in parts.items():
            out[:, positions] = how(self._models[candidate].encoder)(windows, names)
        return out


_Encode = Callable[[Sequence[UserWindow], Sequence[str]], NDArray[np.float32]]


class _Model:
    """One model of the set, with the scenarios it was given."""

    def __init__(self, encoder: UserEncoder, settings: ModelSettings) -> None:
        self.encoder = encoder
        self.prompts = PromptFiles(encoder, settings.prompts_dir)
        self._scenarios: dict[str, ScenarioSettings] = {}

    def add(self, name: str, scenario: ScenarioSettings) -> None:
        if scenario.prompt is not None and self.prompts.load(scenario.prompt):
            for other, of in self._scenarios.items():
                if of.prompt == scenario.prompt:
                    self.encoder.add_scenario(other, of)
        self.encoder.add_scenario(name, scenario)
        self._scenarios[name] = scenario

    def remove(self, name: str) -> None:
        self.encoder.remove_scenario(name)
        self._scenarios.pop(name, None)
