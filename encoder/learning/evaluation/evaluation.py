"""Methods tried on tasks one after the other: a reader is fitted on rows of training and judged on those of test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from encoder.learning.baselines.boosted import fit_boosted
from encoder.learning.baselines.probe import Columns, Reader, fit_logistic
from encoder.learning.evaluation.table import Method
from encoder.learning.tasks.rows import Split, TaskRows
from encoder.learning.tasks.scores import Asked, Doubles, Interval, auc, difference_of_means, ks

STRENGTHS = (0.05, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)
"""C of the probe: the one with the best mean AUC of validation is taken, the same for every task."""

Source = Callable[[str], Columns]
"""What a method reads of a task's rows, in their order: float32 (rows, k)."""


def shared(columns: Columns, place: Mapping[str, NDArray[np.intp]]) -> Source:
    """Columns of moments, (m, k), that tasks share. place: per task where its rows are in them."""
    return lambda task: columns[place[task]]


def joined(*sources: Source) -> Source:
    """Several side by side."""
    return lambda task: np.concatenate([source(task) for source in sources], axis=1)


class Evaluation:
    """Tasks, and methods tried on them."""

    def __init__(self, tasks: Sequence[TaskRows]) -> None:
        self.tasks = tasks
        self._users = 1 + max(int(task.users.max()) for task in tasks)

    def choose(self, source: Source, strengths: Sequence[float] = STRENGTHS) -> Method:
        """A probe per task, all of the strength that validation prefers."""
        found = self._probes(source, strengths)
        return max(found.values(), key=lambda method: method.validation)

    def fit(self, source: Source, strength: float, *, kept: NDArray[np.bool_] | None = None) -> Method:
        """A probe per task.

        Args:
            strength: C of the probe. kept: bool (k,), which columns; None = all.
        """
        return self._probes(source if kept is None else _only(source, kept), (strength,))[strength]

    def boost(self, source: Source) -> Method:
        """Trees per task; columns may be NaN."""
        return self._read("lightgbm", source, lambda task, columns: fit_boosted(columns, task.y, task.split))

    def scored(self, source: Source, reader: str) -> Method:
        """The first column is the score; nothing is fitted here, and what a question says beside is not read.

        Args:
            reader: what it is called.
        """
        return self._read(reader, source, lambda task, columns: _first)

    def again(self, method: Method, tasks: Sequence[TaskRows], source: Source) -> Method:
        """What was fitted, on other rows: those of test asked again of other columns.

        Args:
            tasks: rows to judge, all of test; some of the tasks only.
        """
        found = Method(method.columns, method.strength, reader=method.reader)
        for task in tasks:
            scores = method.readers[task.name](_beside(source(task.name), task))
            _judge(found, task.name, scores, task.y)
        return found

    def difference(self, one: Method, other: Method) -> dict[str, Interval]:
        """How sure it is that one is better: intervals of AUC(one) - AUC(other), users drawn with replacement."""
        test = {task.name: task.split == Split.TEST for task in self.tasks}
        asked = {task.name: Asked(task.users[test[task.name]], task.y[test[task.name]]) for task in self.tasks}
        return difference_of_means(asked, one.scores, other.scores, users=self._users)

    def _probes(self, source: Source, strengths: Sequence[float]) -> dict[float, Method]:
        methods = {strength: Method(0, strength) for strength in strengths}
        for task in self.tasks:
            own = source(task.name)
            columns = _beside(own, task)
            for strength, reader in fit_logistic(columns, task.y, task.split, strengths=strengths).items():
                _add(methods[strength], task, own.shape[1], columns, reader)
        return methods

    def _read(self, name: str, source: Source, fitted: Callable[[TaskRows, Columns], Reader]) -> Method:
        method = Method(0, reader=name)
        for task in self.tasks:
            own = source(task.name)
            columns = _beside(own, task)
            _add(method, task, own.shape[1], columns, fitted(task, columns))
        return method


def _add(method: Method, task: TaskRows, own: int, columns: Columns, reader: Reader) -> None:
    """A task to a method. own: how many columns are the method's, without what the question says."""
    method.columns = own
    method.readers[task.name] = reader
    scores = reader(columns)
    test, validation = task.split == Split.TEST, task.split == Split.VALIDATION
    _judge(method, task.name, scores[test], task.y[test])
    method.of_validation[task.name] = auc(scores[validation], task.y[validation])


def _judge(method: Method, task: str, scores: Doubles, y: NDArray[np.bool_]) -> None:
    method.scores[task] = scores
    method.auc[task] = auc(scores, y)
    method.ks[task] = ks(scores, y)


def _beside(columns: Columns, task: TaskRows) -> Columns:
    return np.concatenate([columns, task.extra], axis=1)


def _only(source: Source, kept: NDArray[np.bool_]) -> Source:
    return lambda task: source(task)[:, kept]


def _first(columns: Columns) -> Doubles:
    return columns[:, 0].astype(np.float64)
