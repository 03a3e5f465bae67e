"""Trees learn from training rows, stop by those of validation, and are told apart by nothing else."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from encoder.learning.baselines.boosted import fit_boosted
from encoder.learning.tasks.rows import Split
from encoder.learning.tasks.scores import auc
from store.base.errors import NotFoundError


def test_trees_find_what_a_line_cannot() -> None:
    pytest.importorskip("lightgbm")
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(1_800, 4)).astype(np.float32)
    columns[::7, 2] = np.nan
    y = (columns[:, 0] * columns[:, 1] > 0) ^ (rng.random(1_800) < 0.1)
    split = np.repeat(np.array(list(Split), np.int8), 600)
    scores = fit_boosted(columns, y, split)(columns)
    test = split == Split.TEST
    assert auc(scores[test], y[test]) > 0.8
    others = y.copy()
    others[test] ^= True
    assert np.array_equal(fit_boosted(columns, others, split)(columns), scores)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(NotFoundError, match="lightgbm"):
        fit_boosted(np.zeros((3, 1), np.float32), np.zeros(3, bool), np.array(list(Split), np.int8))
