"""Statistics of a user: what is counted, whoever is computed beside, and finite whatever came."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.statistics import local_time, statistics
from encoder.statistics.table import ACTIVITY, BOUND, NUMBER, SPANS, TEXTS
from store.base.settings import ModalitySettings
from store.window.memory import BLOCK_MS, NO_MEMORY, TOTAL_LIMIT, TOTAL_SCALE, Block, Memory
from store.window.rows import Summary
from store.window.summary import signed_log
from store.window.user_window import ModalityWindow, UserWindow
from tests.support.windows import DIM, MODALITIES, START_MS, Row, random_rows, window

DAY_MS = 86_400_000
ZONE = "America/New_York"
ONE = {"bill": ModalitySettings(topic="b", numbers=("amount",))}


def of(user: UserWindow, zone: str = "UTC") -> dict[str, float]:
    got = statistics.compute([user], MODALITIES, zone)[0].tolist()
    return dict(zip(statistics.names(MODALITIES), got, strict=True))


def bills(days: list[float], amounts: list[float] | None = None, seeds: list[int] | None = None) -> UserWindow:
    """Rows at days after `START_MS`, in this order; made by hand so that amounts are known."""
    count = len(days)
    ts = np.array([START_MS + round(day * DAY_MS) for day in days], np.int64)
    vectors = np.stack([np.eye(DIM)[seed] for seed in seeds or [0] * count]).astype(np.float16)
    numbers = np.array(amounts or [1.0] * count, np.float32)[:, None]
    summary = Summary(count, int(ts[0]), int(ts[-1]), vectors.sum(0, dtype=np.float32), (0,), (0,), {}, 0)
    return UserWindow("u", {"bill": ModalityWindow(summary, ts, [str(i) for i in range(count)], numbers, vectors)})


def of_bills(user: UserWindow, *, max_events: int = 250) -> dict[str, float]:
    one = {"bill": ModalitySettings(topic="b", numbers=("amount",), max_events=max_events)}
    got = statistics.compute([user], one)[0].tolist()
    return dict(zip((name.removeprefix("bill.") for name in statistics.names(ONE)), got, strict=True))


def log(x: float) -> float:
    return math.copysign(math.log1p(abs(x)), x)


def test_names_are_those_of_the_columns() -> None:
    names = statistics.names(MODALITIES)
    assert len(names) == len(set(names))
    assert statistics.compute([], MODALITIES).shape == (0, len(names))
    assert {"bill.recency", "bill.fee.total_28d", "profile.value.last", "user.tenure", "bill.match.search"} <= {*names}
    assert len(statistics.modality_names(MODALITIES["search"])) == len(ACTIVITY) + len(TEXTS)
    assert len(statistics.modality_names(MODALITIES["profile"])) == len(ACTIVITY) + len(TEXTS) + len(NUMBER)


def test_the_page_has_every_statistic_as_the_table_says_it() -> None:
    page = (Path(__file__).parents[3] / "docs" / "model.md").read_text(encoding="utf-8")
    for table in (ACTIVITY, TEXTS, NUMBER):
        assert "\n".join(f"| `{name}` | {statistic.meaning} |" for name, statistic in table.items()) in page


def test_a_user_of_whom_nothing_is_known_is_all_zeros() -> None:
    assert not statistics.compute([UserWindow("nobody")], MODALITIES).any()


@pytest.mark.parametrize("zone", ["UTC", ZONE])
@pytest.mark.parametrize("count", [1, 2, 40, 300])
def test_activity_as_counted_by_hand(count: int, zone: str) -> None:
    rows = random_rows(count, count, days=120)
    user = window("u", rows)
    got = of(user, zone)
    for token in ("bill", "search", "user"):
        ts = sorted(row.ts for row in rows if token in ("user", row.modality))
        if not ts:
            assert not any(got[f"{token}.{name}"] for name in ACTIVITY)
            continue
        age = [user.as_of - each for each in ts]
        spans = {days: sum(ms < days * DAY_MS for ms in age) for days in SPANS}
        local = [datetime.fromtimestamp(each / 1000, UTC).astimezone(ZoneInfo(zone)) for each in ts]
        days = sorted({moment.toordinal() for moment in local})
        gaps = np.diff(days) if len(days) > 1 else np.zeros(1)
        hours = np.array([moment.hour for moment in local]) * 2 * np.pi / 24
        weekdays = np.array([moment.weekday() for moment in local]) * 2 * np.pi / 7
        block, now = [each // (28 * DAY_MS) for each in ts], user.as_of // (28 * DAY_MS)
        full = [block.count(each) for each in range(block[0], now)]
        wanted = {
            "any": 1,
            "count": log(len(ts)) / 3,
            "count_life": log(len(ts)) / 3,
            **{f"count_{d}d": log(n) / 3 for d, n in spans.items()},
            "count_28_56d": log(spans[56] - spans[28]) / 3,
            "recency": log(age[-1] / 3.6e6) / 4,
            "span": log(age[0] / 3.6e6) / 4,
            "tenure": log(age[0] / 3.6e6) / 4,
            "days": log(len(days)) / 3,
            "gap_mean": log(gaps.mean()) / 2,
            "gap_deviation": log(gaps.std()) / 2,
            "gap_max": log(gaps.max()) / 2,
            "recency_per_gap_mean": log(age[-1] / DAY_MS / max(gaps.mean(), 1)),
            "rate_before": log(spans[28]) - log(spans[56] - spans[28]),
            "rate_life": log(spans[28]) - log(len(ts) * 28 / max(age[0] / DAY_MS, 28)),
            "empty_blocks": full.count(0) / len(full) if full else 0,
            "block_deviation": log(np.std(full) / np.mean(full)) if full else 0,
            "hour_cos": np.cos(hours).mean(),
            "hour_sin": np.sin(hours).mean(),
            "weekday_cos": np.cos(weekdays).mean(),
            "weekday_sin": np.sin(weekdays).mean(),
        }
        assert {name: got[f"{token}.{name}"] for name in wanted} == pytest.approx(wanted, abs=1e-5), token


def test_numbers_as_counted_by_hand() -> None:
    user = bills([0, 40, 61, 80, 89.5, 90], [10.0, -3.0, math.nan, 7.5, math.inf, 2.0])
    got = of_bills(user)
    logs = [log(10), log(-3), log(7.5), log(2)]
    wanted = {
        "present": 4 / 6,
        "mean": np.mean(logs) / 4,
        "deviation": np.std(logs) / 2,
        "last": log(2) / 4,
        "total_1d": log(2) / 4,
        "total_14d": log(9.5) / 4,
        "total_56d": log(6.5) / 4,
        "total_90d": log(6.5) / 4,
        "total_28_56d": log(-3) / 4,
        "total": log(16.5) / 4,
        "total_life": log(16.5) / 4,
        "total_before": (log(9.5) - log(-3)) / 2,
        "total_vs_life": (log(9.5) - log(16.5 * 28 / 90)) / 2,
    }
    assert {name: got[f"amount.{name}"] for name in wanted} == pytest.approx(wanted, abs=1e-5)


def test_texts_and_match_as_counted_by_hand() -> None:
    rows = bills([1, 2, 4, 5, 5], seeds=[3, 3, 0, 3, 1])
    got = of_bills(rows)
    assert got["texts"] == pytest.approx(math.log1p(3) / 3)
    assert got["top_text"] == pytest.approx(3 / 5)
    other = bills([2, 3], seeds=[7, 1]).modalities["bill"]
    both = UserWindow("u", {"bill": rows.modalities["bill"], "search": other})
    match = of(both)
    # the newest bills are 0 and 1, all bills 3, 3, 0, 3, 1; the newest search is 1, all searches 7 and 1
    assert match["bill.match.search"] == pytest.approx(1 / math.sqrt(2) / math.sqrt(2), abs=1e-6)
    assert match["search.match.bill"] == pytest.approx(1 / math.sqrt(11), abs=1e-6)
    assert match["bill.match.profile"] == 0
    assert not statistics.describe([both], MODALITIES, DIM).match[0].diagonal().any()


def test_distinct_texts_of_real_vectors_are_told_apart() -> None:
    rows = [Row("bill", START_MS + i, f"e{i}", i % 37) for i in range(150)]
    counts = Counter(row.seed for row in rows)
    got = of(window("u", rows))
    assert got["bill.texts"] == pytest.approx(math.log1p(len(counts)) / 3)
    assert got["bill.top_text"] == pytest.approx(max(counts.values()) / 150)


def test_who_is_computed_beside_changes_no_bit() -> None:
    users = [window(f"u{i}", random_rows(i, 25 * i)) for i in range(8)]
    together = statistics.compute(users, MODALITIES, ZONE)
    alone = np.concatenate([statistics.compute([user], MODALITIES, ZONE) for user in users])
    assert np.array_equal(together, alone)


TIMES = st.integers(0, 2**53) | st.integers(START_MS, START_MS + 100 * DAY_MS)
NUMBERS = st.floats(width=32) | st.sampled_from((math.nan, math.inf, -math.inf, 3.4e38, -3.4e38, 0.0))


@given(st.lists(st.tuples(TIMES, NUMBERS, st.integers(0, 3)), min_size=1, max_size=30), st.integers(0, 10**6))
def test_anything_gives_finite_values_within_the_bound(rows: list[tuple[int, float, int]], late: int) -> None:
    rows.sort(key=lambda row: row[0])
    user = bills([0.0] * len(rows), [row[1] for row in rows], [row[2] for row in rows])
    own = user.modalities["bill"]
    own.ts[:] = [row[0] for row in rows]
    newest = rows[-1][0] + late * DAY_MS
    summary = own.summary._replace(oldest=max(rows[0][0], 1), newest=newest)
    user = UserWindow("u", {"bill": ModalityWindow(summary, own.ts, own.names, own.numbers, own.vectors)})
    got = statistics.compute([user], ONE, ZONE)
    assert np.isfinite(got).all()
    assert np.abs(got).max() <= BOUND


@given(st.integers(0, 4 * 10**12), st.sampled_from(("UTC", ZONE, "Australia/Lord_Howe", "Asia/Kathmandu")))
def test_local_times_are_those_of_the_zone(ms: int, zone: str) -> None:
    moment = datetime.fromtimestamp(ms / 1000, UTC).astimezone(ZoneInfo(zone))
    local = local_time.offsets(zone).local(np.array([ms]))
    assert int(local_time.hours_of_day(local)[0]) == moment.hour
    day = local_time.days(local)
    assert int(day[0]) == moment.toordinal() - datetime(1970, 1, 1).toordinal()
    assert int(local_time.weekdays(day)[0]) == moment.weekday()


def remembering(user: UserWindow, cut: int) -> UserWindow:
    """The same bills, the first `cut` of them in memory."""
    own = user.modalities["bill"]
    blocks: dict[int, Block] = {}
    for ts, number in zip(own.ts[:cut].tolist(), own.numbers[:cut, 0].tolist(), strict=True):
        held = blocks.get(ts // BLOCK_MS, Block(0, (0,), (0,), (0,)))
        step = signed_log(number)
        limited = max(-TOTAL_LIMIT, min(TOTAL_LIMIT, number)) if step is not None else 0.0
        blocks[ts // BLOCK_MS] = Block(
            held.rows + 1,
            (held.sums[0] + (step or 0),),
            (held.totals[0] + round(limited * TOTAL_SCALE),),
            (held.counts[0] + (step is not None),),
        )
    memory = Memory(cut, int(own.ts[0]), blocks) if cut else NO_MEMORY
    rest = own.vectors[cut:]
    summary = own.summary._replace(
        rows=len(rest),
        oldest=int(own.ts[cut]) if len(rest) else 0,
        vector_sum=rest.sum(0, dtype=np.float32),
        memory=memory,
    )
    return UserWindow("u", {"bill": ModalityWindow(summary, own.ts[cut:], own.names[cut:], own.numbers[cut:], rest)})


LIFETIME = (
    "count_life", "tenure", "recency", "empty_blocks", "block_deviation", "amount.total_life",
    "amount.block_total_deviation",
)  # fmt: skip


@given(
    st.lists(st.tuples(st.floats(0, 700), NUMBERS), min_size=1, max_size=40), st.integers(0, 40), st.integers(0, 100)
)
def test_lifetime_is_that_of_all_events_wherever_the_window_begins(
    rows: list[tuple[float, float]], cut: int, silent: int
) -> None:
    rows.sort(key=lambda row: row[0])
    whole = bills([day for day, _ in rows], [number for _, number in rows])
    now = whole.as_of + silent * DAY_MS
    all_rows, split = (of_bills(user.at(now)) for user in (whole, remembering(whole, min(cut, len(rows)))))
    for name in LIFETIME:
        assert split[name] == pytest.approx(all_rows[name], abs=1e-5), name
    assert all(math.isfinite(value) and abs(value) <= BOUND for value in split.values())
    if cut < len(rows):
        assert split["span"] <= split["tenure"]


def test_of_a_span_beyond_the_window_a_block_counts_by_its_share() -> None:
    """Ten rows spread over 28 days in memory, a full window of the last day."""
    block = START_MS // BLOCK_MS * BLOCK_MS
    first = (block - START_MS) / DAY_MS
    days = [first + 2.8 * i for i in range(10)]
    user = remembering(bills([*days, first + 28 + 27], [1.0] * 11), 10)
    got = of_bills(user.at(block + 56 * DAY_MS), max_events=1)
    assert got["count_28d"] == pytest.approx(log(1) / 3)
    assert got["count_56d"] == pytest.approx(log(11) / 3)
    assert got["amount.total_56d"] == pytest.approx(log(11) / 4)
    half = of_bills(user.at(block + 70 * DAY_MS), max_events=1)  # the span begins in the middle of the block
    assert half["count_56d"] == pytest.approx(log(1 + 5) / 3)
    assert half["amount.total_56d"] == pytest.approx(log(1 + 5) / 4)
    assert half["count_life"] == pytest.approx(log(11) / 3)


@pytest.mark.parametrize("silent", [91, 100, 110])
@pytest.mark.parametrize("others", [0, 1])
def test_what_left_the_window_by_its_age_is_not_within_its_days(silent: int, others: int) -> None:
    """Ten rows at the beginning of a block, which itself reaches into the span; the window is not full."""
    block = (START_MS // BLOCK_MS + 1) * BLOCK_MS
    days = [(block - START_MS) / DAY_MS + hour / 24 for hour in range(10)]
    days += [days[0] + silent - 1] * others
    user = remembering(bills(days), 10).at(block + silent * DAY_MS)
    got = of_bills(user)
    for name in ("count_84d", "count_90d"):
        assert got[name] == pytest.approx(log(others) / 3), name
    assert got["amount.total_90d"] == pytest.approx(log(others) / 4)
    assert got["count_life"] == pytest.approx(log(10 + others) / 3)


def test_time_that_passes_without_events_is_heard() -> None:
    user = window("u", random_rows(1, 60))
    before, after = of(user), of(user.at(user.as_of + 21 * DAY_MS))
    assert after["user.recency"] == pytest.approx(log(21 * 24) / 4)
    assert after["bill.count_28d"] < before["bill.count_28d"]
    assert after["bill.amount.total_7d"] == 0
    assert after["bill.recency_per_gap_mean"] > before["bill.recency_per_gap_mean"]
    assert all(
        after[name] == before[name] for name in before if ".match." in name or name.endswith((".texts", ".gap_mean"))
    )
