"""AUC, KS and intervals against scikit-learn and against counting pairs; a probe on columns that tell."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.learning.baselines.probe import logistic
from encoder.learning.tasks.rows import Split
from encoder.learning.tasks.scores import Asked, auc, difference_of_means, ks

rows = st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=2, max_size=40).filter(
    lambda rows: {y for _, y, _ in rows} == {True, False}
)


@given(rows)
def test_auc_counts_pairs(rows: list[tuple[int, bool, int]]) -> None:
    scores, y = np.array([float(s) for s, _, _ in rows]), np.array([y for _, y, _ in rows])
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[y] for n in scores[~y]]
    assert auc(scores, y) == pytest.approx(np.mean(pairs))


@given(rows)
def test_a_weight_is_a_row_that_comes_so_often(rows: list[tuple[int, bool, int]]) -> None:
    scores, y = np.array([float(s) for s, _, _ in rows]), np.array([y for _, y, _ in rows])
    times = np.array([n for _, _, n in rows])
    often = auc(np.repeat(scores, times), np.repeat(y, times))
    assert auc(scores, y, times.astype(float)) == pytest.approx(often, nan_ok=True)


@given(rows)
def test_as_scikit_learn_has_it(rows: list[tuple[int, bool, int]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores, y = np.array([float(s) for s, _, _ in rows]), np.array([y for _, y, _ in rows])
    assert auc(scores, y) == pytest.approx(metrics.roc_auc_score(y, scores))
    false, true, _ = metrics.roc_curve(y, scores)
    assert ks(scores, y) == pytest.approx(np.abs(true - false).max())


def test_the_better_method_is_told_from_an_equal_one() -> None:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(200), 4)
    y = rng.random(800) < 0.3
    asked = {"a": Asked(users, y), "b": Asked(users[::2], y[::2])}
    good = {name: own.y + rng.normal(0, 1.0, len(own.y)) for name, own in asked.items()}
    poor = {name: own.y + rng.normal(0, 3.0, len(own.y)) for name, own in asked.items()}
    found = difference_of_means(asked, good, poor, users=200)
    assert found.keys() == {"a", "b", "mean"}
    assert found["mean"].low > 0
    same = difference_of_means(asked, good, good, users=200)
    assert same["mean"] == (0, 0)


def test_a_probe_learns_from_training_rows_alone() -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(1)
    y = rng.random(900) < 0.4
    columns = np.stack([y + rng.normal(0, 0.5, 900), rng.normal(0, 1, 900), np.ones(900)], 1).astype(np.float32)
    split = np.repeat(np.array([Split.TRAIN, Split.VALIDATION, Split.TEST], np.int8), 300)
    scores = logistic(columns, y, split, strength=0.05)
    assert auc(scores[split == Split.TEST], y[split == Split.TEST]) > 0.85
    others = y.copy()
    others[split != Split.TRAIN] ^= True
    assert np.array_equal(logistic(columns, others, split, strength=0.05), scores)
