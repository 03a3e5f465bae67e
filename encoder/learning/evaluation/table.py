"""What an evaluation says: methods by tasks, and how sure the differences that count are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from encoder.learning.baselines.probe import Reader
from encoder.learning.tasks.scores import Doubles, Interval


@dataclass(slots=True)
class Method:
    """What one method reached. auc, ks: on test rows, per task. of_validation: AUC of validation rows.

    columns: how many it reads. reader: what reads them. strength: C of a probe. scores: of test rows, per task.
    readers: what was fitted, per task.
    """

    columns: int
    strength: float | None = None
    auc: dict[str, float] = field(default_factory=dict)
    ks: dict[str, float] = field(default_factory=dict)
    of_validation: dict[str, float] = field(default_factory=dict)
    scores: dict[str, Doubles] = field(default_factory=dict)
    reader: str = "logistic"
    readers: dict[str, Reader] = field(default_factory=dict)

    @property
    def validation(self) -> float:
        """Mean AUC of validation rows, by which a strength is chosen; NaN where they were not read."""
        return float(np.mean(list(self.of_validation.values()))) if self.of_validation else float("nan")

    @property
    def mean_auc(self) -> float:
        """Over the tasks."""
        return float(np.mean(list(self.auc.values())))

    @property
    def mean_ks(self) -> float:
        """Over the tasks."""
        return float(np.mean(list(self.ks.values())))

    def of_task(self, task: str) -> dict[str, float | None]:
        """For --json."""
        return {"auc": self.auc[task], "ks": self.ks[task], "validation_auc": self.of_validation.get(task)}

    def summary(self) -> dict[str, Any]:
        """Of the whole, for --json."""
        return {
            "auc": self.mean_auc,
            "ks": self.mean_ks,
            "validation_auc": None if np.isnan(self.validation) else self.validation,
            "columns": self.columns,
            "reader": self.reader,
            "C": self.strength,
        }


@dataclass(slots=True)
class Table:
    """methods: by name, in order. differences: per (one, other) the intervals by task and of the `mean` of AUC(one) -
    AUC(other). series: by name of what is varied, then by method and step, methods on the same test rows.
    """

    tasks: list[str]
    methods: dict[str, Method]
    differences: dict[tuple[str, str], dict[str, Interval]] = field(default_factory=dict)
    series: dict[str, dict[str, dict[str, Method]]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For --json: `tasks.{task}.{method}`, `mean.{method}`, `differences.{one - other}.{task}`; see docs/cli.md."""
        return {
            "tasks": {task: {name: m.of_task(task) for name, m in self.methods.items()} for task in self.tasks},
            "mean": {name: method.summary() for name, method in self.methods.items()},
            "differences": {
                f"{one} - {other}": {task: list(interval) for task, interval in found.items()}
                for (one, other), found in self.differences.items()
            },
            **{
                name: {
                    method: {step: {"auc": m.auc, "mean_auc": m.mean_auc} for step, m in steps.items()}
                    for method, steps in by_method.items()
                }
                for name, by_method in self.series.items()
            },
        }
