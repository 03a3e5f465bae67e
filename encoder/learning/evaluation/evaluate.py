"""One table: what a linear reader makes of columns, per task, with intervals of the differences that count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.learning.baselines.probe import logistic
from encoder.learning.tasks.rows import Split, TaskRows
from encoder.learning.tasks.scores import Asked, Doubles, Interval, auc, difference_of_means, ks

STRENGTHS = (0.05, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)
"""C of the probe: the one with the best mean AUC of validation is taken, the same for every task."""

Columns = NDArray[np.float32]


@dataclass(slots=True)
class Method:
    """What one method reached. auc, ks: on test rows, per task. validation: mean AUC of validation rows.

    strength: C of its probe. scores: of test rows, per task.
    """

    columns: int
    strength: float
    auc: dict[str, float] = field(default_factory=dict)
    ks: dict[str, float] = field(default_factory=dict)
    validation: float = 0.0
    scores: dict[str, Doubles] = field(default_factory=dict)

    @property
    def mean_auc(self) -> float:
        """Over the tasks."""
        return float(np.mean(list(self.auc.values())))

    @property
    def mean_ks(self) -> float:
        """Over the tasks."""
        return float(np.mean(list(self.ks.values())))


@dataclass(slots=True)
class Table:
    """methods: by name, in order. differences: per (one, other) the intervals by task and of the `mean` of AUC(one) -
    AUC(other)."""

    tasks: list[str]
    methods: dict[str, Method]
    differences: dict[tuple[str, str], dict[str, Interval]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For --json: `tasks.{task}.{method}`, `mean.{method}`, `differences.{one - other}.{task}`; see docs/cli.md."""
        return {
            "tasks": {
                task: {name: {"auc": m.auc[task], "ks": m.ks[task]} for name, m in self.methods.items()}
                for task in self.tasks
            },
            "mean": {
                name: {
                    "auc": m.mean_auc,
                    "ks": m.mean_ks,
                    "validation_auc": m.validation,
                    "columns": m.columns,
                    "C": m.strength,
                }
                for name, m in self.methods.items()
            },
            "differences": {
                f"{one} - {other}": {task: list(interval) for task, interval in found.items()}
                for (one, other), found in self.differences.items()
            },
            "probe": {"kind": "logistic"},
        }


class Evaluation:
    """Tasks, and methods tried on them one after the other."""

    def __init__(self, tasks: Sequence[TaskRows], place: Mapping[str, NDArray[np.intp]]) -> None:
        """place: per task where its rows are in the columns that methods bring."""
        self._tasks = tasks
        self._place = place
        self._users = 1 + max(int(task.users.max()) for task in tasks)
        self._test = {task.name: task.split == Split.TEST for task in tasks}

    def choose(self, columns: Columns) -> Method:
        """As `fit`, with the strength of the probe that validation prefers."""
        return max((self.fit(columns, strength) for strength in STRENGTHS), key=lambda method: method.validation)

    def fit(self, columns: Columns, strength: float, *, kept: NDArray[np.bool_] | None = None) -> Method:
        """A probe per task.

        Args:
            columns: float32 (moments, k). strength: C of the probe. kept: bool (k,), which columns; None = all.
        """
        method = Method(columns.shape[1] if kept is None else int(kept.sum()), strength)
        of_validation = []
        for task in self._tasks:
            own = columns[self._place[task.name]]
            if kept is not None:
                own = own[:, kept]
            scores = logistic(np.concatenate([own, task.extra], axis=1), task.y, task.split, strength=strength)
            test, validation = self._test[task.name], task.split == Split.VALIDATION
            method.scores[task.name] = scores[test]
            method.auc[task.name] = auc(scores[test], task.y[test])
            method.ks[task.name] = ks(scores[test], task.y[test])
            of_validation.append(auc(scores[validation], task.y[validation]))
        method.validation = float(np.mean(of_validation))
        return method

    def difference(self, one: Method, other: Method) -> dict[str, Interval]:
        """How sure it is that one is better: intervals of AUC(one) - AUC(other), users drawn with replacement."""
        asked = {t.name: Asked(t.users[self._test[t.name]], t.y[self._test[t.name]]) for t in self._tasks}
        return difference_of_means(asked, one.scores, other.scores, users=self._users)
