"""The methods by name: what each reads, what reads it, and the table that they make together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Final

import numpy as np

from encoder.forward.user_encoder import UserEncoder
from encoder.learning.baselines.hand_made import logs
from encoder.learning.evaluation.columns import Gatherer, Statistics, TextPool, gather
from encoder.learning.evaluation.data_set import DataSet
from encoder.learning.evaluation.evaluation import Evaluation, Source, joined, shared
from encoder.learning.evaluation.model_vectors import ModelVectors
from encoder.learning.evaluation.table import Method, Table
from encoder.learning.moments import Moments, moments
from encoder.learning.sequences.recurrent import Recurrent, Supervised, embed, train_coles, train_gru
from encoder.learning.sequences.steps import steps_of
from encoder.learning.tasks.rows import TaskRows

Show = Callable[[float, str], object]


class Name(StrEnum):
    """Methods, in the table's order."""

    LIGHTGBM = "lightgbm"
    LIGHTGBM_LONG = "lightgbm_long"
    LOGISTIC = "logistic"
    STATISTICS = "statistics"
    TEXT_POOL = "text_pool"
    GRU = "gru"
    COLES = "coles"
    RANDOM = "random"
    STATIC = "static"
    QUERY = "query"
    ZERO_SHOT = "zero_shot"
    STACKED = "stacked"


OF_A_CHECKPOINT: Final = (Name.STATIC, Name.QUERY, Name.ZERO_SHOT, Name.STACKED)
"""These need one; `random` is the model as seeded."""

ASKING: Final = (Name.QUERY, Name.ZERO_SHOT)
"""These depend on a task's question alone."""

TRAINED_HERE: Final = (Name.GRU, Name.COLES)
"""Networks that are trained for the evaluation: minutes each, so only where they are named."""

_BOOSTED: Final = (Name.LIGHTGBM, Name.LIGHTGBM_LONG, Name.STACKED)
_SCORES: Final = {Name.ZERO_SHOT: "cosine", Name.GRU: "own head"}
"""These bring scores, and what they are read by."""
_COMPARED: Final = (
    (Name.QUERY, Name.LIGHTGBM),
    (Name.QUERY, Name.LIGHTGBM_LONG),
    (Name.QUERY, Name.STATISTICS),
    (Name.QUERY, Name.TEXT_POOL),
    (Name.QUERY, Name.RANDOM),
    (Name.QUERY, Name.STATIC),
    (Name.QUERY, Name.COLES),
    (Name.QUERY, Name.GRU),
    (Name.ZERO_SHOT, Name.LIGHTGBM),
    (Name.STACKED, Name.LIGHTGBM_LONG),
    (Name.LIGHTGBM_LONG, Name.LIGHTGBM),
    (Name.STATISTICS, Name.LIGHTGBM),
    (Name.LOGISTIC, Name.LIGHTGBM),
    (Name.RANDOM, Name.TEXT_POOL),
)
"""Differences that are worth an interval."""


def available(data: DataSet, *, trained: bool) -> list[Name]:
    """Methods that this data set and model have."""
    lacking = {*(() if "long" in data.hand_made else (Name.LIGHTGBM_LONG,)), *(() if trained else OF_A_CHECKPOINT)}
    return [name for name in Name if name not in lacking]


class Methods:
    """Some methods on one data set. trained: the checkpoint's; seeded: the same model without it."""

    def __init__(
        self,
        data: DataSet,
        wanted: Sequence[Name],
        *,
        trained: UserEncoder | None,
        seeded: UserEncoder | None,
    ) -> None:
        self.data, self.wanted = data, wanted
        self._trained, self._seeded = trained, seeded
        self._evaluation = Evaluation(data.tasks)
        self._coles: Recurrent | None = None
        self._gru: Supervised | None = None

    def table(self, show: Show) -> Table:
        """Everything fitted and judged; what was fitted stays in the methods, for `again`."""
        sources = self._sources(self.data, self.data.tasks, lambda done, text: show(0.6 * done, text))
        table = Table([task.name for task in self.data.tasks], {})
        for i, name in enumerate(self.wanted):
            show(0.6 + 0.35 * i / len(self.wanted), f"fitting {name}")
            table.methods[name] = self._fitted(name, sources[name])
        for one, other in _COMPARED:
            if one in table.methods and other in table.methods:
                show(0.95, f"how sure: {one} - {other}")
                first, second = table.methods[one], table.methods[other]
                table.differences[one, other] = self._evaluation.difference(first, second)
        return table

    def only(self, names: Sequence[Name]) -> Methods:
        """Fewer of them, of the same models."""
        own = [name for name in self.wanted if name in names]
        return Methods(self.data, own, trained=self._trained, seeded=self._seeded)

    def of_encoder(self, trained: UserEncoder) -> Methods:
        """The same methods of another checkpoint, of those that need one."""
        own = [name for name in self.wanted if name in OF_A_CHECKPOINT]
        return Methods(self.data, own, trained=trained, seeded=None)

    def again(
        self, table: Table, data: DataSet, tasks: Sequence[TaskRows], show: Show = lambda done, text: None
    ) -> dict[str, Method]:
        """The table's methods as they were fitted, on rows of test that are seen in another way, by name."""
        sources = self._sources(data, tasks, show)
        judged = self._evaluation
        return {name: judged.again(table.methods[name], tasks, sources[name]) for name in self.wanted}

    def _fitted(self, name: Name, source: Source) -> Method:
        if name in _SCORES:
            return self._evaluation.scored(source, _SCORES[name])
        return self._evaluation.boost(source) if name in _BOOSTED else self._evaluation.choose(source)

    def _sources(self, data: DataSet, tasks: Sequence[TaskRows], show: Show) -> Mapping[Name, Source]:
        asked = moments(tasks)
        sources = self._of_hand_made(data, asked, show)
        sources |= self._of_sequences(data, tasks, asked, show)
        gatherers: list[Gatherer] = []
        found_by: list[Callable[[], dict[Name, Source]]] = []
        if Name.STATISTICS in self.wanted:
            counted = Statistics(data.windows, len(asked.users), data.zone)
            gatherers.append(counted)
            found_by.append(lambda: {Name.STATISTICS: shared(counted.columns, asked.place)})
        if Name.TEXT_POOL in self.wanted:
            pooled = TextPool(data.windows, len(asked.users))
            gatherers.append(pooled)
            found_by.append(lambda: {Name.TEXT_POOL: shared(pooled.columns, asked.place)})
        if Name.RANDOM in self.wanted and self._seeded is not None:
            random = ModelVectors(self._seeded, tasks, asked, data.questions, general=False)
            gatherers.append(random)
            found_by.append(lambda: {Name.RANDOM: random.of})
        if self._trained is not None and any(name in OF_A_CHECKPOINT for name in self.wanted):
            vectors = ModelVectors(self._trained, tasks, asked, data.questions, general=Name.STATIC in self.wanted)
            gatherers.append(vectors)
            found_by.append(lambda: self._of_vectors(vectors, asked, sources))
        if gatherers:
            gather(data.windows, asked, gatherers, lambda done, of: show(done / of, f"{done:,} of {of:,} windows"))
        for found in found_by:
            sources |= found()
        return sources

    def _of_hand_made(self, data: DataSet, asked: Moments, show: Show) -> dict[Name, Source]:
        if not {*_BOOSTED, Name.LOGISTIC} & {*self.wanted}:
            return {}
        show(0.0, "counting hand-made features")
        base = data.hand_made["base"](asked)
        sources = {
            Name.LIGHTGBM: shared(base.astype(np.float32), asked.place),
            Name.LOGISTIC: shared(logs(base), asked.place),
        }
        if Name.LIGHTGBM_LONG in self.wanted:
            long = data.hand_made["long"](asked).astype(np.float32)
            sources[Name.LIGHTGBM_LONG] = joined(sources[Name.LIGHTGBM], shared(long, asked.place))
        return sources

    def _of_sequences(self, data: DataSet, tasks: Sequence[TaskRows], asked: Moments, show: Show) -> dict[Name, Source]:
        """Of networks that are trained the first time."""
        sources: dict[Name, Source] = {}
        if not {*TRAINED_HERE} & {*self.wanted}:
            return sources
        show(0.0, "sequences")
        steps = steps_of(data.windows.history)
        if Name.COLES in self.wanted:
            self._coles = self._coles or train_coles(steps, tasks, show)
            sources[Name.COLES] = shared(embed(self._coles, steps, asked), asked.place)
        if Name.GRU in self.wanted:
            self._gru = self._gru or train_gru(steps, tasks, asked, show)
            scores = self._gru.scores(steps, tasks, asked)
            sources[Name.GRU] = lambda task: scores[task]
        return sources

    @staticmethod
    def _of_vectors(vectors: ModelVectors, asked: Moments, made: Mapping[Name, Source]) -> dict[Name, Source]:
        found: dict[Name, Source] = {Name.QUERY: vectors.of, Name.ZERO_SHOT: vectors.zero_shot}
        if vectors.general is not None:
            found[Name.STATIC] = shared(vectors.general, asked.place)
        if Name.LIGHTGBM in made:
            found[Name.STACKED] = joined(made[Name.LIGHTGBM], vectors.of)
        return found
