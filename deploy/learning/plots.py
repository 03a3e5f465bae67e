"""Pictures of what was measured, as SVG: what is varied in an evaluation, and a training run's losses."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from encoder.learning.evaluation.table import Method
from store.base.errors import NotFoundError

_SMOOTHED = 25
"""Steps that a drawn loss is the mean of."""
_AXES = {
    "freshness": ("age of the embedding in days", "mean AUC"),
    "noise": ("share of another user's events", "mean AUC"),
}


def series(path: Path, what: str, by_method: Mapping[str, Mapping[str, Method]]) -> None:
    """Mean AUC by step, a line a method; steps stand at equal distances.

    Args:
        what: `freshness` or `noise`.

    Raises:
        NotFoundError: matplotlib is not installed. OSError: the file cannot be written.
    """
    figure, axes = _figure()
    x_label, y_label = _AXES[what]
    steps = list(next(iter(by_method.values())))
    for name, found in by_method.items():
        values = [found[step].mean_auc for step in steps]
        axes.plot(range(len(steps)), values, marker="o", label=name)
    axes.set_xticks(range(len(steps)), steps)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.legend(frameon=False, fontsize="small")
    _save(figure, path)


def losses(path: Path, metrics: Path) -> None:
    """A training run's loss and its parts by step, from its lines of metrics.

    Raises:
        NotFoundError: matplotlib is not installed. OSError: a file cannot be read or written.
    """
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    figure, axes = _figure()
    axes.plot(*_smooth((line["number"], line["loss"]) for line in lines), label="loss", linewidth=2)
    for name in sorted({name for line in lines for name in line["parts"]}):
        own = ((line["number"], line["parts"][name]) for line in lines if name in line["parts"])
        axes.plot(*_smooth(own), label=name, linewidth=1)
    axes.set_xlabel(f"step (means of {_SMOOTHED})")
    axes.set_yscale("log")
    axes.legend(frameon=False, fontsize="small")
    _save(figure, path)


def _smooth(points: Iterable[tuple[float, float]]) -> tuple[Any, Any]:
    x, y = np.array(list(points), np.float64).reshape(-1, 2).T
    width = max(1, min(_SMOOTHED, len(x)))
    kernel = np.ones(width) / width
    return np.convolve(x, kernel, "valid"), np.convolve(y, kernel, "valid")


def _figure() -> tuple[Any, Any]:
    try:
        from matplotlib import rcParams
        from matplotlib.figure import Figure
    except ImportError:
        raise NotFoundError("matplotlib is not installed", action="pip install 'anchorstream[learn,demo]'") from None
    rcParams["svg.hashsalt"] = "anchorstream"  # equal figures are equal files
    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None})
