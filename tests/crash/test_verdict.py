"""The judge finds what was done to windows and embeddings, and counts it by kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from store.account.account import Account, SourceAccount
from store.window.rows import Summary
from store.window.user_window import ModalityWindow, UserWindow
from stream.account.report import AccountReport, ProcessedPartition, RawPartition, account
from stream.raw_counts import RawCounts
from tests.crash.reference import Expected, Sent
from tests.crash.verdict import Verdict, compare_account, compare_served, compare_windows
from tests.support.behaviour import Message


def window(*names: str, covers: int = 9) -> ModalityWindow:
    n = len(names)
    return ModalityWindow(
        Summary(n, 0, 0, np.zeros(4, np.float32), (), (), {"a:0": covers}, 0),
        np.arange(n, dtype=np.int64),
        list(names),
        np.full((n, 1), np.nan, np.float32),
        np.ones((n, 4), np.float16),
    )


def windows(**modalities: ModalityWindow) -> dict[str, UserWindow]:
    return {"u": UserWindow("u", modalities)}


WANT = windows(click=window("a", "b"), pay=window("c"))


@pytest.mark.parametrize(
    ("got", "found"),
    [
        pytest.param(windows(click=window("a", "b"), pay=window("c")), {}, id="the same"),
        pytest.param({}, {"lost": 3}, id="nothing"),
        pytest.param(windows(click=window("a", "b")), {"lost": 1}, id="no window"),
        pytest.param(windows(click=window("a"), pay=window("c")), {"lost": 1}, id="no row"),
        pytest.param(windows(click=window("a", "b", "b"), pay=window("c")), {"doubled": 1}, id="a row twice"),
        pytest.param(windows(click=window("a", "x"), pay=window("c")), {"lost": 1, "doubled": 1}, id="another row"),
        pytest.param(windows(click=window("b", "a"), pay=window("c")), {"mismatched": 1}, id="order"),
        pytest.param(windows(click=window("a", "b"), pay=window("c", covers=8)), {"mismatched": 1}, id="covers"),
        pytest.param(WANT | {"v": WANT["u"]}, {"doubled": 3}, id="a user that nobody sent"),
    ],
)
def test_windows(got: dict[str, UserWindow], found: dict[str, int]) -> None:
    verdict = Verdict()
    compare_windows(verdict, got, WANT)
    assert verdict.counts == found


def served(**changes: Any) -> dict[tuple[str, str], dict[str, Any]]:
    w = WANT["u"]
    record = {"vector": [1.0, 0.0], "events": w.events, "as_of": w.as_of, "covers": w.covers}
    return {("u", "churn"): record | changes, ("u", "coupon"): record}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        pytest.param(lambda s: s, {}, id="the same"),
        pytest.param(lambda s: {("u", "churn"): s["u", "churn"]}, {"missing": 1}, id="one scenario"),
        pytest.param(lambda s: s | {("v", "churn"): s["u", "churn"]}, {"mismatched": 1}, id="somebody unknown"),
        pytest.param(lambda _: served(vector=[0.9, 0.1]), {"mismatched": 1}, id="vector"),
        pytest.param(lambda _: served(covers={}), {"mismatched": 1}, id="covers"),
        pytest.param(lambda _: served(as_of=5), {"mismatched": 1}, id="as_of"),
    ],
)
def test_embeddings(change: Callable[[Any], Any], found: dict[str, int]) -> None:
    verdict = Verdict()
    want = {"u": Expected(WANT["u"], np.array([[1.0, 0.0], [1.0, 0.0]], np.float32))}
    compare_served(verdict, change(served()), want, ["churn", "coupon"])
    assert verdict.counts == found


def report(**changes: Any) -> AccountReport:
    """Of one topic: four messages, one refused, one sent twice."""
    counts = RawCounts(5, 0, {"click": 3}, {"invalid_json": 1})
    applied = {"applied": 2, "duplicate": 1} | changes
    processed = Account({"in:0": SourceAccount(5, 3, {"click": applied})})
    return account({("in", 0): RawPartition(4, counts, 0, 4)}, [ProcessedPartition(processed, 1, 1, 1)], at=1)


@pytest.mark.parametrize(
    ("got", "fates", "found"),
    [
        pytest.param(report(), ("accepted", "duplicate", "accepted", "invalid_json"), 0, id="the same"),
        pytest.param(report(), ("accepted",) * 3 + ("invalid_json",), 1, id="a duplicate that nobody sent"),
        pytest.param(report(), ("accepted", "duplicate", "accepted", "ts_too_old"), 1, id="another code"),
        pytest.param(report(), ("accepted", "duplicate", "invalid_json"), 2, id="one too many"),
        pytest.param(report(applied=1), ("accepted", "duplicate", "accepted", "invalid_json"), 1, id="one is nowhere"),
        pytest.param(report(applied=3), ("accepted", "duplicate", "accepted", "invalid_json"), 1, id="one twice"),
    ],
)
def test_the_account(got: AccountReport, fates: Sequence[str], found: int) -> None:
    sent = [Sent(Message("in", b"", b"", fate), "in", 0, n) for n, fate in enumerate(fates)]
    earlier = Sent(Message("in", b"", b"", "accepted"), "in#01234567", 0, 0)  # of a topic that is gone
    letters = {("in", 0, n): fate for n, fate in enumerate(fates) if fate not in ("accepted", "duplicate")}
    verdict = Verdict()
    compare_account(verdict, got, [*sent, earlier], letters, {"in": "in"})
    assert verdict.counts["miscounted"] == verdict.counts.total() == found, verdict.details
