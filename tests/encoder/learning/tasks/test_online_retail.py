"""Online Retail's tasks against the reference's counts, and its features against the reference's figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoder.learning.baselines.boosted import fit_boosted
from encoder.learning.baselines.recency_frequency_money import COUNT, RecencyFrequencyMoney
from encoder.learning.tasks.online_retail import (
    TASKS,
    Invoices,
    invoices,
    moment_of,
    shop_time,
    shop_time_of,
    tasks,
)
from encoder.learning.tasks.rows import Split
from encoder.learning.tasks.scores import auc

FILES = [folder / "shared" / "data" / "online_retail" / "online_retail.parquet" for folder in Path(__file__).parents]
FILE = next((file for file in FILES if file.exists()), None)
ABSENT = pytest.mark.skipif(FILE is None, reason="the data set is not here: shared/data/online_retail/")
DAY = 86_400_000


@pytest.fixture(scope="module")
def made() -> Invoices:
    return invoices(pytest.importorskip("pyarrow.parquet").read_table(FILE).to_pandas())


@pytest.mark.parametrize(("day", "hours"), [("2011-03-01", 0), ("2011-03-27", 0), ("2011-07-19", 1), ("2011-10-30", 1)])
def test_shop_time_and_moments_are_each_others_inverse(day: str, hours: int) -> None:
    pytest.importorskip("pandas")
    shown = shop_time(day)
    assert shop_time_of(moment_of(shown)) == shown
    assert shown - moment_of(shown) == hours * 3_600_000


def test_features_by_hand() -> None:
    """Two customers: one with two orders and a cancellation, one with an order that is still to come."""
    at = shop_time("2011-06-01")
    few = Invoices(
        [1, 2],
        np.array([0, 0, 0, 1]),
        np.array([at - 40 * DAY, at - 10 * DAY, at - 5 * DAY, at + DAY]),
        np.array([False, False, True, False]),
        np.array([10.0, 30.0, -4.0, 7.0]),
        np.array([2, 3, 1, 1]),
        np.array([2, 1, 1, 1]),
    )
    row, other = RecencyFrequencyMoney(few).at(at)
    assert row.shape == (COUNT,)
    assert row[12:18].tolist() == [1, 30, 3, 1, 1, -4]  # 28 days
    assert row[18:24].tolist() == [2, 40, 5, 3, 1, -4]  # 56 days
    assert row[36:43].tolist() == pytest.approx([10, 40, 20, np.std([10, 30], ddof=1), 30, 1 / 3, 30 / 11])
    assert (other[:36] == 0).all()
    assert np.isnan(other[36:42]).all()


@ABSENT
def test_rows_and_positives_are_the_references(made: Invoices) -> None:
    found = tasks(made)
    assert tuple(task.name for task in found) == TASKS
    for task, rate in zip(found, (0.372, 0.104, 0.653), strict=True):
        rows, positive = task.counts(Split.TEST)
        assert rows == 4_269
        assert positive / rows == pytest.approx(rate, abs=5e-4)


@ABSENT
@pytest.mark.slow
def test_the_references_figures_are_reached(made: Invoices) -> None:
    """LightGBM's, which move by some thousandths with the order of columns."""
    pytest.importorskip("lightgbm")
    features = RecencyFrequencyMoney(made)
    for task, expected in zip(tasks(made), (0.739, 0.759, 0.718), strict=True):
        times = {now: shop_time_of(now) for now in np.unique(task.now).tolist()}
        at = np.array([times[now] for now in task.now.tolist()])
        columns = features.of(task.users, at).astype(np.float32)
        scores = fit_boosted(columns, task.y, task.split)(columns)
        test = task.split == Split.TEST
        assert auc(scores[test], task.y[test]) == pytest.approx(expected, abs=0.01), task.name
