"""The table of an evaluation: a method that knows more is told from one that knows less, and how surely."""

from __future__ import annotations

import numpy as np
import pytest

from encoder.learning.evaluation.evaluation import STRENGTHS, Evaluation, Source, shared
from encoder.learning.evaluation.table import Table
from encoder.learning.tasks.rows import Split, TaskRows

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def made() -> tuple[Evaluation, Source]:
    """Two tasks over one set of moments; column 0 tells both, column 1 a little, the rest nothing."""
    rng = np.random.default_rng(0)
    moments = 1_200
    known = rng.normal(size=moments)
    columns = np.stack([known, known + rng.normal(0, 3, moments), *rng.normal(size=(3, moments))], 1).astype(np.float32)
    tasks, place = [], {}
    for name, noise in (("one", 0.5), ("two", 1.0)):
        rows = rng.permutation(moments)[:900]
        split = np.repeat(np.array(list(Split), np.int8), 300)
        y = known[rows] + rng.normal(0, noise, 900) > 0.5
        tasks.append(TaskRows(name, rows % 100, np.zeros(900, np.int64), y, split, np.zeros((900, 0), np.float32)))
        place[name] = rows
    return Evaluation(tasks), shared(columns, place)


def test_a_method_that_knows_more_is_told_from_one_that_knows_less(made: tuple[Evaluation, Source]) -> None:
    evaluation, columns = made
    full = evaluation.choose(columns)
    assert full.strength in STRENGTHS
    assert full.auc == pytest.approx(evaluation.fit(columns, full.strength).auc, abs=1e-3)
    poor = evaluation.fit(columns, full.strength, kept=np.arange(5) != 0)
    assert (full.columns, poor.columns) == (5, 4)
    assert full.auc["one"] > full.auc["two"] > 0.8 > poor.auc["two"]
    difference = evaluation.difference(full, poor)
    assert difference["mean"].low > 0.1
    table = Table(["one", "two"], {"full": full, "poor": poor}, {("full", "poor"): difference}).to_dict()
    assert table["tasks"]["two"]["poor"] == {
        "auc": poor.auc["two"], "ks": poor.ks["two"], "validation_auc": poor.of_validation["two"],
    }  # fmt: skip
    assert table["mean"]["poor"]["validation_auc"] == np.mean(list(poor.of_validation.values()))
    assert table["mean"]["full"]["C"] == full.strength
    assert table["mean"]["full"]["auc"] == pytest.approx((full.auc["one"] + full.auc["two"]) / 2)
    assert table["differences"]["full - poor"]["mean"] == list(difference["mean"])
    assert 0 < table["mean"]["full"]["ks"] <= 1


def test_what_a_question_says_counts(made: tuple[Evaluation, Source]) -> None:
    """`extra` columns are the probe's too."""
    rng = np.random.default_rng(1)
    y = rng.random(900) < 0.5
    split = np.repeat(np.array(list(Split), np.int8), 300)
    task = TaskRows(
        "x", np.arange(900), np.zeros(900, np.int64), y, split, (y[:, None] + rng.normal(0, 0.3, (900, 1))), ("told",)
    )
    method = Evaluation([task]).fit(lambda name: np.zeros((900, 2), np.float32), 0.05)
    assert method.auc["x"] > 0.95


def test_what_was_fitted_is_read_again_on_rows_that_are_seen_otherwise(made: tuple[Evaluation, Source]) -> None:
    evaluation, columns = made
    method = evaluation.fit(columns, 0.05)
    test = {task.name: task.split == Split.TEST for task in evaluation.tasks}
    tasks = [task.only(test[task.name]) for task in evaluation.tasks]
    same = evaluation.again(method, tasks, lambda name: columns(name)[test[name]])
    assert same.auc == method.auc
    noise = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    assert evaluation.again(method, tasks[:1], lambda name: noise).auc["one"] == pytest.approx(0.5, abs=0.1)


def test_a_cosine_is_a_score_as_it_is(made: tuple[Evaluation, Source]) -> None:
    evaluation, columns = made
    method = evaluation.scored(lambda name: columns(name)[:, :1], "cosine")
    assert method.auc["one"] > 0.9
    assert (method.reader, method.strength, method.columns) == ("cosine", None, 1)
