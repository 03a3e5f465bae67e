"""How the table's statistics are counted, of all users at once: sums per segment and series in a few passes.

Sums are added in the order of the rows of each segment or series, so who is computed beside changes no bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoder.statistics import local_time
from encoder.statistics.local_time import DAY_MS, HOUR_MS
from encoder.statistics.table import ACTIVITY, BOUND, NUMBER, SPANS, TEXTS, Statistic
from encoder.statistics.window_arrays import Doubles, Floats, Ints, WindowArrays, signed_log
from store.window.memory import BLOCK_MS

BLOCK_DAYS = BLOCK_MS // DAY_MS

_EDGES = np.array(SPANS, np.int64) * DAY_MS
_AT = {days: i for i, days in enumerate(SPANS)}
_BINS = len(SPANS) + 1
_HOUR, _WEEKDAY = (2 * np.pi * np.arange(n) / n for n in (24, 7))
_HOUR_COS, _HOUR_SIN, _WEEKDAY_COS, _WEEKDAY_SIN = np.cos(_HOUR), np.sin(_HOUR), np.cos(_WEEKDAY), np.sin(_WEEKDAY)

_NEVER = -(1 << 62)
_BITS = 38
"""Of a day or block number in a key, above them the segment or series."""


class Spans(NamedTuple):
    """When rows are. bins: int64 (rows,), first of `SPANS` that a row is within. as_of: int64 (segments,), ms. oldest:
    int64 (segments,), ms, of the window; life: of window and memory. inside: float64 (entries, SPANS), share of each
    memory block that lies in a span.
    """

    bins: Ints
    as_of: Ints
    oldest: Ints
    life: Ints
    inside: Doubles

    @classmethod
    def of(cls, rows: WindowArrays) -> Spans:
        as_of = np.tile(rows.as_of, rows.modalities)
        bins = np.searchsorted(_EDGES, as_of[rows.segment] - rows.ts, side="right")
        oldest = as_of.copy()
        held = rows.lengths > 0
        oldest[held] = rows.ts[(np.cumsum(rows.lengths) - rows.lengths)[held]]
        life = oldest.copy()
        memory = rows.memory
        life[memory.segment] = np.minimum(oldest[memory.segment], memory.oldest)
        # a block's rows lie between its ends, after the oldest in memory and before the window, its rows and its edge
        start = np.maximum(memory.block * BLOCK_MS, memory.oldest)
        before = np.where(held, oldest, rows.newest + 1)
        before = np.where(rows.by_age, np.minimum(before, as_of - rows.window_ms), before)
        end = np.minimum((memory.block + 1) * BLOCK_MS, before[memory.segment])
        end = np.maximum(end, start + 1)
        covered = (end - np.maximum(start, as_of[memory.segment] - _EDGES[:, None])) / (end - start)
        return cls(bins, as_of, oldest, life, np.clip(covered, 0.0, 1.0).T)


def activity(rows: WindowArrays, spans: Spans, means: Floats, zone: str) -> Floats:
    """(segments + users, ACTIVITY): of each segment, then of each user."""
    users, segments, memory = rows.users, rows.users * rows.modalities, rows.memory
    offsets = local_time.offsets(zone)
    local = offsets.local(rows.ts)
    day = local_time.days(local)
    within = _sums(rows.segment * _BINS + spans.bins, segments * _BINS).reshape(segments, _BINS)[:, :-1].cumsum(1)
    np.add.at(within, memory.segment, memory.rows[:, None] * spans.inside)
    of_hours = _sums(rows.segment * 24 + local_time.hours_of_day(local), segments * 24).reshape(segments, 24)
    of_weekdays = _sums(rows.segment * 7 + local_time.weekdays(day), segments * 7).reshape(segments, 7)
    in_memory = _sums(memory.segment, segments, memory.rows)
    counts = np.concatenate([within, of_hours, of_weekdays, rows.lengths[:, None], in_memory[:, None]], 1)
    counts = np.concatenate([counts, counts.reshape(rows.modalities, users, counts.shape[1]).sum(0)])
    within, hours, weekdays = counts[:, : len(SPANS)].T, counts[:, len(SPANS) : -9], counts[:, -9:-2]
    count, life = counts[:, -2], counts[:, -2] + counts[:, -1]

    as_of = np.concatenate([spans.as_of, rows.as_of])
    newest = np.where(rows.newest > 0, rows.newest - spans.as_of, _NEVER)
    ages = np.stack([newest, spans.as_of - spans.oldest, spans.as_of - spans.life])
    ages = np.concatenate([ages, ages.reshape(3, rows.modalities, users).max(1)], 1)
    recency, (span, tenure) = np.where(ages[0] > _NEVER, -ages[0], 0), ages[1:]
    c28, c56, c84 = (within[_AT[days]] for days in (28, 56, 84))
    gaps = _Gaps.of(rows, day, local_time.days(offsets.local(rows.as_of)))
    blocks = _Steadiness.of(*_blocks_of_rows(rows), as_of // BLOCK_MS)
    logs = _logs(
        **{f"count_{days}d": within[i] for days, i in _AT.items()},
        count_28_56d=c56 - c28,
        count_56_84d=c84 - c56,
        third=c84 / 3,
        count=count,
        count_life=life,
        per_window=count * BLOCK_DAYS / np.maximum(span / DAY_MS, BLOCK_DAYS),
        per_life=life * BLOCK_DAYS / np.maximum(tenure / DAY_MS, BLOCK_DAYS),
        recency=recency / HOUR_MS,
        span=span / HOUR_MS,
        tenure=tenure / HOUR_MS,
        days=gaps.days,
        days_28d=gaps.recent,
        gap_mean=gaps.mean,
        gap_deviation=gaps.deviation,
        gap_max=gaps.longest,
        recency_per_gap_mean=recency / DAY_MS / np.maximum(gaps.mean, 1),
        recency_per_gap_max=recency / DAY_MS / np.maximum(gaps.longest, 1),
        block_deviation=blocks.deviation / np.maximum(blocks.mean, 1e-9),
    )
    one = np.maximum(count, 1)
    wide = means.reshape(segments + users, means.shape[-1]).astype(np.float64)
    found = {
        **logs,
        "any": count > 0,
        "rate_before": logs["count_28d"] - logs["count_28_56d"],
        "rate_window": logs["count_28d"] - logs["per_window"],
        "rate_life": logs["count_28d"] - logs["per_life"],
        "rate_84d_life": logs["third"] - logs["per_life"],
        "empty_blocks": blocks.empty,
        "hour_cos": (hours * _HOUR_COS).sum(1) / one,
        "hour_sin": (hours * _HOUR_SIN).sum(1) / one,
        "weekday_cos": (weekdays * _WEEKDAY_COS).sum(1) / one,
        "weekday_sin": (weekdays * _WEEKDAY_SIN).sum(1) / one,
        "norm": np.sqrt(np.square(wide).sum(1)),
    }
    return _table(found, ACTIVITY)


def texts(rows: WindowArrays) -> Floats:
    """(segments, TEXTS)."""
    segments = len(rows.lengths)
    distinct, most = np.zeros(segments), np.zeros(segments)
    if len(rows.ts):
        keys = np.sort((rows.segment.astype(np.uint64) << np.uint64(40)) | (rows.texts >> np.uint64(24)))
        starts = _starts(keys)
        repeats = np.diff(np.append(starts, len(keys)))
        segment = (keys[starts] >> np.uint64(40)).astype(np.int64)
        distinct = _sums(segment, segments)
        np.maximum.at(most, segment, repeats)
    found = {"texts": np.log1p(distinct), "top_text": most / np.maximum(rows.lengths, 1)}
    return _table(found, TEXTS)


def numbers(rows: WindowArrays, spans: Spans) -> Floats:
    """(series, NUMBER)."""
    segment = rows.segment_of_series
    series = len(segment)
    own, memory = rows.numbers, rows.memory
    count = _sums(own.series, series)
    one = np.maximum(count, 1)
    own_logs = signed_log(own.values)
    sums = _sums(own.series, series, own_logs)
    mean = sums / one
    life_count = np.maximum(count + _sums(memory.totals.series, series, memory.counts), 1)
    life_mean = (sums + _sums(memory.totals.series, series, memory.logs)) / life_count
    squares = _sums(own.series, series, np.square(own_logs - mean[own.series]))
    last = np.zeros(series)
    last[own.series] = own_logs  # of several, the last is kept
    bins = _sums(own.series * _BINS + spans.bins[own.at], series * _BINS, own.values).reshape(series, _BINS)
    within, total = bins[:, :-1].cumsum(1), bins.sum(1)
    np.add.at(within, memory.totals.series, memory.totals.values[:, None] * spans.inside[memory.totals.at])
    within = within.T
    life = total + _sums(memory.totals.series, series, memory.totals.values)
    t28, t56, t84 = (within[_AT[days]] for days in (28, 56, 84))
    tenure = (spans.as_of - spans.life)[segment] / DAY_MS
    blocks = _Steadiness.of(
        np.concatenate([own.series, memory.totals.series]),
        np.concatenate([rows.ts[own.at] // BLOCK_MS, memory.block[memory.totals.at]]),
        np.concatenate([own.values, memory.totals.values]),
        (spans.as_of // BLOCK_MS)[segment],
    )
    logs = _logs(
        **{f"total_{days}d": within[i] for days, i in _AT.items()},
        total_28_56d=t56 - t28,
        total_56_84d=t84 - t56,
        third=t84 / 3,
        total=total,
        total_life=life,
        per_life=life * BLOCK_DAYS / np.maximum(tenure, BLOCK_DAYS),
        block_total_deviation=blocks.deviation / (np.abs(blocks.mean) + 1),
    )
    found = {
        **logs,
        "present": count / np.maximum(rows.lengths[segment], 1),
        "mean": mean,
        "deviation": np.sqrt(squares / one),
        "mean_vs_life": np.where(count > 0, mean - life_mean, 0.0),
        "last": last,
        "total_before": logs["total_28d"] - logs["total_28_56d"],
        "total_level": logs["total_28d"] - logs["third"],
        "total_vs_life": logs["total_28d"] - logs["per_life"],
        "total_84d_life": logs["third"] - logs["per_life"],
    }
    return _table(found, NUMBER)


def match(rows: WindowArrays) -> Floats:
    """(modalities + 1, modalities, users): cosine of newest rows and means."""
    recent, means = _unit(rows.recent), _unit(rows.means)
    match = np.zeros((rows.modalities + 1, rows.modalities, rows.users), np.float32)
    for i, own in enumerate(recent):
        match[i] = (own * means).sum(-1)
        match[i, i] = 0.0
    return match


def _unit(vectors: Floats) -> Doubles:
    wide = vectors.astype(np.float64)
    norms = np.sqrt(np.square(wide).sum(-1, keepdims=True))
    return wide / np.where(norms > 0, norms, 1.0)


class _Gaps(NamedTuple):
    """Of days with events, (segments + users,) each: how many, how many among the last 28, days between them."""

    days: Doubles
    recent: Doubles
    mean: Doubles
    deviation: Doubles
    longest: Doubles

    @classmethod
    def of(cls, rows: WindowArrays, day: Ints, today: Ints) -> _Gaps:
        """day: int64 (rows,), local. today: int64 (users,), local day of `as_of`."""
        segments, count = len(rows.lengths), len(rows.lengths) + rows.users
        day, today = day + 1, today + 1  # west of Greenwich 1970 begins on the day before
        keys = (rows.segment << _BITS) + day
        keys = keys[_starts(keys)]
        of_user = segments + (keys >> _BITS) % max(rows.users, 1)
        of_users = np.sort((of_user << _BITS) + (keys & ((1 << _BITS) - 1)))
        keys = np.concatenate([keys, of_users[_starts(of_users)]])
        owner, day = keys >> _BITS, keys & ((1 << _BITS) - 1)
        days = _sums(owner, count)
        now = np.concatenate([np.tile(today, rows.modalities), today])
        recent = _sums(owner, count, (day > now[owner] - BLOCK_DAYS).astype(np.float64))
        same = owner[1:] == owner[:-1]
        gap, owner = np.diff(day)[same].astype(np.float64), owner[1:][same]
        one = np.maximum(days - 1, 1)
        mean = _sums(owner, count, gap) / one
        deviation = np.sqrt(_sums(owner, count, np.square(gap - mean[owner])) / one)
        longest = np.zeros(count)
        np.maximum.at(longest, owner, gap)
        return cls(days, recent, mean, deviation, longest)


class _Steadiness(NamedTuple):
    """Over the blocks from the first with rows to the last that is over: share of empty ones, mean and deviation."""

    empty: Doubles
    mean: Doubles
    deviation: Doubles

    @classmethod
    def of(cls, owner: Ints, block: Ints, amount: Doubles, until: Ints) -> _Steadiness:
        """owner, block, amount: (n,) of rows or of sums of them. until: (owners,), the block of `as_of`."""
        count = len(until)
        keys, inverse = np.unique((owner << _BITS) + block, return_inverse=True)
        sums = _sums(inverse, len(keys), amount)
        owner, block = keys >> _BITS, keys & ((1 << _BITS) - 1)
        first = until.copy()
        np.minimum.at(first, owner, block)
        over = block < until[owner]
        owner, sums = owner[over], sums[over]
        blocks = until - first
        one = np.maximum(blocks, 1)
        empty = np.where(blocks > 0, 1 - _sums(owner, count) / one, 0.0)
        mean = _sums(owner, count, sums) / one
        squares = _sums(owner, count, np.square(sums)) / one
        return cls(empty, mean, np.sqrt(np.maximum(squares - np.square(mean), 0)))


def _blocks_of_rows(rows: WindowArrays) -> tuple[Ints, Ints, Doubles]:
    """(owner, block, rows) of window and memory, of each segment and again of its user."""
    segments = len(rows.lengths)
    keys = (rows.segment << _BITS) + rows.ts // BLOCK_MS
    starts = _starts(keys)
    keys, amount = keys[starts], np.diff(np.append(starts, len(keys))).astype(np.float64)
    owner = np.concatenate([keys >> _BITS, rows.memory.segment])
    block = np.concatenate([keys & ((1 << _BITS) - 1), rows.memory.block])
    amount = np.concatenate([amount, rows.memory.rows])
    of_user = segments + owner % max(rows.users, 1)
    return np.concatenate([owner, of_user]), np.tile(block, 2), np.tile(amount, 2)


def _starts(keys: NDArray[np.generic]) -> Ints:
    """Where a run of equal keys begins."""
    changed = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=changed[1:])
    return np.flatnonzero(changed)


def _sums(owner: Ints, count: int, amount: Doubles | None = None) -> Doubles:
    """Sum per owner, float64 (count,), added in their order; how many where there is no amount."""
    return np.bincount(owner, amount, count).astype(np.float64, copy=False)


@cache
def _scales(table: tuple[Statistic, ...]) -> Doubles:
    return np.array([statistic.scale for statistic in table])


def _logs(**columns: Doubles) -> dict[str, Doubles]:
    """Signed logarithms by name, in one call for all."""
    return dict(zip(columns, signed_log(np.array(list(columns.values()))), strict=True))


def _table(found: Mapping[str, NDArray[np.generic]], table: Mapping[str, Statistic]) -> Floats:
    columns = np.array([found[name] for name in table], np.float64)
    columns = columns.T * _scales(tuple(table.values()))
    return np.clip(columns, -BOUND, BOUND).astype(np.float32)
