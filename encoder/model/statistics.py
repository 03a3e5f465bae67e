"""What is counted of a user besides texts: one table of named statistics, computed for many users at once.

Every statistic is a function of a window's rows, of what memory holds before them, and of the time it stands at
(`as_of`), whatever the order of arrival and whoever is computed beside. Values are finite and within `BOUND`: counts,
times and amounts enter as logarithms. Of a span that reaches beyond the window, memory's rows count by the share of
their block that lies in it. Days and hours are those of a time zone; blocks of 28 days are counted from 1970, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoder.model import local_time
from encoder.model.features import signed_log
from encoder.model.local_time import DAY_MS, HOUR_MS
from encoder.model.window_arrays import Doubles, Ints, WindowArrays, gather
from store.base.settings import ModalityKind, ModalitySettings
from store.window.memory import BLOCK_MS
from store.window.user_window import UserWindow

Floats = NDArray[np.float32]

BOUND = 16.0
"""No statistic is beyond it, of either sign."""

SPANS = (1, 7, 14, 28, 56, 84, 90)
"""Days back from `as_of`."""

ACTIVITY = {
    "any": "1 where the window has rows",
    **{f"count_{days}d": f"rows of the last {days} days" for days in SPANS},
    "count_28_56d": "rows of 28 to 56 days ago",
    "count_56_84d": "rows of 56 to 84 days ago",
    "count": "rows of the window",
    "count_life": "rows of window and memory",
    "recency": "hours since the newest event",
    "span": "hours since the window's oldest row",
    "tenure": "hours since the oldest row of window or memory",
    "days": "days with events in the window",
    "days_28d": "days with events among the last 28",
    "gap_mean": "days between days with events: mean",
    "gap_deviation": "… standard deviation",
    "gap_max": "… longest",
    "recency_per_gap_mean": "days since the newest event, in mean gaps",
    "recency_per_gap_max": "… in longest gaps",
    "rate_before": "rate of the last 28 days against the 28 before",
    "rate_window": "rate of the last 28 days against the window's",
    "rate_life": "rate of the last 28 days against lifetime's",
    "rate_84d_life": "rate of the last 84 days against lifetime's",
    "empty_blocks": "share of lifetime's blocks of 28 days that have no row",
    "block_deviation": "standard deviation of rows per block over their mean",
    "hour_cos": "hour of day, circular mean: towards midnight",
    "hour_sin": "… towards 6 in the morning",
    "weekday_cos": "day of the week, circular mean: towards Monday",
    "weekday_sin": "… towards Tuesday and Wednesday",
    "norm": "length of the mean vector: 1 where all texts are one",
}
"""Of a set of events: each modality's, and all of the user's. Name: meaning, before logarithms and scale."""

TEXTS = {
    "texts": "distinct texts in the window",
    "top_text": "share of the most frequent text",
}
"""Of each modality."""

NUMBER = {
    "present": "share of rows that carry the number",
    "mean": "mean of its signed logarithms",
    "deviation": "standard deviation of its signed logarithms",
    "mean_vs_life": "mean of its signed logarithms against that of window and memory",
    "last": "the newest, as signed logarithm",
    **{f"total_{days}d": f"total of the last {days} days" for days in SPANS},
    "total_28_56d": "total of 28 to 56 days ago",
    "total_56_84d": "total of 56 to 84 days ago",
    "total": "total of the window",
    "total_life": "total of window and memory",
    "total_before": "total of the last 28 days against the 28 before",
    "total_level": "total of the last 28 days against a third of the last 84",
    "total_vs_life": "total of the last 28 days against lifetime's per 28 days",
    "total_84d_life": "a third of the total of the last 84 days against lifetime's per 28 days",
    "block_total_deviation": "standard deviation of totals per block over their mean",
}
"""Of each number of each modality."""

BLOCK_DAYS = BLOCK_MS // DAY_MS

_EDGES = np.array(SPANS, np.int64) * DAY_MS
_AT = {days: i for i, days in enumerate(SPANS)}
_BINS = len(SPANS) + 1
_HOUR = 2 * np.pi * np.arange(24) / 24
_WEEKDAY = 2 * np.pi * np.arange(7) / 7
_NEVER = 1 << 62
_BITS = 38
"""Of a day or block number in a key, above them the segment or series."""


class Statistics(NamedTuple):
    """Of each user and modality, in the modalities' order, and of the user as a whole.

    means: float32 (modalities + 1, users, dim), the last the user's: mean of the modalities', those without rows
    zeros. modalities: per modality float32 (users, its statistics). user: float32 (users, len(ACTIVITY)).
    match: float32 (modalities + 1, modalities, users), cosine of the first's newest rows and the second's mean; 0 of a
    modality with itself, where either has no rows, and in the last, the user's. as_of: int64 (users,), ms.
    """

    as_of: Ints
    means: Floats
    modalities: list[Floats]
    user: Floats
    match: Floats


def modality_names(settings: ModalitySettings) -> list[str]:
    """Names of the statistics of one modality."""
    numbers = ("value",) if settings.kind is ModalityKind.TABULAR else settings.numbers
    return [*ACTIVITY, *TEXTS, *(f"{number}.{name}" for number in numbers for name in NUMBER)]


def names(modalities: Mapping[str, ModalitySettings]) -> list[str]:
    """Names of the columns of `compute`: `bill.recency`, `bill.amount.total_28d`, `user.count`, `bill.match.search`."""
    return [
        *(f"{name}.{each}" for name, settings in modalities.items() for each in modality_names(settings)),
        *(f"user.{name}" for name in ACTIVITY),
        *(f"{one}.match.{other}" for one in modalities for other in modalities if one != other),
    ]


def compute(windows: Sequence[UserWindow], modalities: Mapping[str, ModalitySettings], zone: str = "UTC") -> Floats:
    """All statistics of users as flat vectors, float32 (users, len(names(modalities))); pure.

    Args:
        zone: IANA name of the time zone of hours and days.
    """
    dims = [m.vectors.shape[1] for window in windows for m in window.modalities.values()]
    got = describe(windows, modalities, max(dims, default=1), zone)
    count = len(modalities)
    pairs = [got.match[i, j] for i in range(count) for j in range(count) if i != j]
    match = np.stack(pairs, 1) if pairs else np.zeros((len(windows), 0), np.float32)
    return np.concatenate([*got.modalities, got.user, match], 1)


def describe(
    windows: Sequence[UserWindow], modalities: Mapping[str, ModalitySettings], dim: int, zone: str = "UTC"
) -> Statistics:
    """Statistics of users, as the model takes them. Modalities that are not named are left out; pure.

    Args:
        dim: of event vectors. zone: see `compute`.
    """
    rows = gather(windows, modalities, dim)
    users, count = rows.users, rows.modalities
    spans = _Spans.of(rows)
    user_mean = rows.means.astype(np.float64).mean(0).astype(np.float32)
    means = np.concatenate([rows.means, user_mean[None]])
    activity = _activity(rows, spans, means, zone).reshape(count + 1, users, len(ACTIVITY))
    texts = _texts(rows).reshape(count, users, len(TEXTS))
    numbers = _numbers(rows, spans).reshape(rows.columns, users, len(NUMBER))
    parts, column = [], 0
    for i, settings in enumerate(modalities.values()):
        width = 1 if settings.kind is ModalityKind.TABULAR else len(settings.numbers)
        parts.append(np.concatenate([activity[i], texts[i], *numbers[column : column + width]], 1))
        column += width
    return Statistics(rows.as_of, means, parts, activity[count], _match(rows))


class _Spans(NamedTuple):
    """When rows are. bins: int64 (rows,), first of `SPANS` that a row is within. oldest: int64 (segments,), ms, of the
    window; life: of window and memory; as_of: of each segment. inside: (entries, SPANS), share of a memory block.
    """

    bins: Ints
    as_of: Ints
    oldest: Ints
    life: Ints
    inside: Doubles

    @classmethod
    def of(cls, rows: WindowArrays) -> _Spans:
        as_of = np.tile(rows.as_of, rows.modalities)
        bins = np.searchsorted(_EDGES, as_of[rows.segment] - rows.ts, side="right")
        oldest = as_of.copy()
        held = rows.lengths > 0
        oldest[held] = rows.ts[(np.cumsum(rows.lengths) - rows.lengths)[held]]
        life = oldest.copy()
        memory = rows.memory
        life[memory.segment] = np.minimum(oldest[memory.segment], memory.oldest)
        # a block's rows lie between its ends, after the oldest in memory and before the window
        start = np.maximum(memory.block * BLOCK_MS, memory.oldest)
        end = np.minimum((memory.block + 1) * BLOCK_MS, oldest[memory.segment])
        end = np.maximum(end, start + 1)
        covered = (end - np.maximum(start, as_of[memory.segment] - _EDGES[:, None])) / (end - start)
        return cls(bins, as_of, oldest, life, np.clip(covered, 0.0, 1.0).T)


def _activity(rows: WindowArrays, spans: _Spans, means: Floats, zone: str) -> Floats:
    """(segments + users, ACTIVITY): of each segment, then of each user."""
    users, segments = rows.users, rows.users * rows.modalities

    def both(of_segments: Doubles) -> Doubles:
        by_modality = of_segments.reshape(rows.modalities, users, *of_segments.shape[1:])
        return np.concatenate([of_segments, by_modality.sum(0)])

    def earliest(of_segments: Ints) -> Ints:
        return np.concatenate([of_segments, of_segments.reshape(rows.modalities, users).min(0)])

    within = _sums(rows.segment * _BINS + spans.bins, segments * _BINS).reshape(segments, _BINS)[:, :-1].cumsum(1)
    memory = rows.memory
    np.add.at(within, memory.segment, memory.rows[:, None] * spans.inside)
    within = both(within)
    count = both(rows.lengths.astype(np.float64))
    life = count + both(_sums(memory.segment, segments, memory.rows))
    as_of = np.concatenate([spans.as_of, rows.as_of])
    recency = earliest(np.where(rows.newest > 0, spans.as_of - rows.newest, _NEVER))
    recency = np.where(recency < _NEVER, recency, 0)
    span = as_of - earliest(spans.oldest)
    tenure = as_of - earliest(spans.life)
    c28, c84 = within[:, _AT[28]], within[:, _AT[84]]
    before = within[:, _AT[56]] - c28
    per_window = count * BLOCK_DAYS / np.maximum(span / DAY_MS, BLOCK_DAYS)
    per_life = life * BLOCK_DAYS / np.maximum(tenure / DAY_MS, BLOCK_DAYS)
    local = local_time.offsets(zone).local(rows.ts)
    hours = both(_sums(rows.segment * 24 + local_time.hours_of_day(local), segments * 24).reshape(segments, 24))
    day = local_time.days(local)
    weekdays = both(_sums(rows.segment * 7 + local_time.weekdays(day), segments * 7).reshape(segments, 7))
    gaps = _Gaps.of(rows, day, local_time.days(local_time.offsets(zone).local(rows.as_of)))
    blocks = _Steadiness.of(*_blocks_of_rows(rows), as_of // BLOCK_MS)
    one = np.maximum(count, 1)
    recency_days = recency / DAY_MS
    found = {
        "any": count > 0,
        **{f"count_{days}d": _log(within[:, i]) / 3 for days, i in _AT.items()},
        "count_28_56d": _log(before) / 3,
        "count_56_84d": _log(c84 - within[:, _AT[56]]) / 3,
        "count": _log(count) / 3,
        "count_life": _log(life) / 3,
        "recency": _log(recency / HOUR_MS) / 4,
        "span": _log(span / HOUR_MS) / 4,
        "tenure": _log(tenure / HOUR_MS) / 4,
        "days": _log(gaps.days) / 3,
        "days_28d": _log(gaps.recent) / 3,
        "gap_mean": _log(gaps.mean) / 2,
        "gap_deviation": _log(gaps.deviation) / 2,
        "gap_max": _log(gaps.longest) / 2,
        "recency_per_gap_mean": _log(recency_days / np.maximum(gaps.mean, 1)),
        "recency_per_gap_max": _log(recency_days / np.maximum(gaps.longest, 1)),
        "rate_before": _log(c28) - _log(before),
        "rate_window": _log(c28) - _log(per_window),
        "rate_life": _log(c28) - _log(per_life),
        "rate_84d_life": _log(c84 / 3) - _log(per_life),
        "empty_blocks": blocks.empty,
        "block_deviation": _log(blocks.deviation / np.maximum(blocks.mean, 1e-9)),
        "hour_cos": (hours * np.cos(_HOUR)).sum(1) / one,
        "hour_sin": (hours * np.sin(_HOUR)).sum(1) / one,
        "weekday_cos": (weekdays * np.cos(_WEEKDAY)).sum(1) / one,
        "weekday_sin": (weekdays * np.sin(_WEEKDAY)).sum(1) / one,
        "norm": np.sqrt(np.square(means.reshape(segments + users, means.shape[-1]), dtype=np.float64).sum(1)),
    }
    return _table(found, ACTIVITY)


def _texts(rows: WindowArrays) -> Floats:
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
    found = {"texts": _log(distinct) / 3, "top_text": most / np.maximum(rows.lengths, 1)}
    return _table(found, TEXTS)


def _numbers(rows: WindowArrays, spans: _Spans) -> Floats:
    """(series, NUMBER)."""
    series = rows.columns * rows.users
    own, memory = rows.numbers, rows.memory
    count = _sums(own.series, series)
    one = np.maximum(count, 1)
    logs = signed_log(own.values)
    sums = _sums(own.series, series, logs)
    mean = sums / one
    life_count = np.maximum(count + _sums(memory.totals.series, series, memory.counts), 1)
    life_mean = (sums + _sums(memory.totals.series, series, memory.logs)) / life_count
    deviation = np.sqrt(_sums(own.series, series, np.square(logs - mean[own.series])) / one)
    last = np.zeros(series)
    last[own.series] = logs  # of several, the last is kept
    bins = _sums(own.series * _BINS + spans.bins[own.at], series * _BINS, own.values).reshape(series, _BINS)
    within = bins[:, :-1].cumsum(1)
    total = bins.sum(1)
    np.add.at(within, memory.totals.series, memory.totals.values[:, None] * spans.inside[memory.totals.at])
    life = total + _sums(memory.totals.series, series, memory.totals.values)
    segment = np.zeros(series, np.int64)
    # a series without any number says nothing of its segment: of those, zeros are right
    segment[own.series] = rows.segment[own.at]
    segment[memory.totals.series] = memory.segment[memory.totals.at]
    there = np.zeros(series, bool)
    there[own.series] = there[memory.totals.series] = True
    tenure = (spans.as_of - spans.life)[segment] / DAY_MS if series else np.zeros(0)
    per_life = life * BLOCK_DAYS / np.maximum(tenure, BLOCK_DAYS)
    t28, t56, t84 = (within[:, _AT[days]] for days in (28, 56, 84))
    until = (spans.as_of // BLOCK_MS)[segment] if series else np.zeros(0, np.int64)
    blocks = _Steadiness.of(
        np.concatenate([own.series, memory.totals.series]),
        np.concatenate([rows.ts[own.at] // BLOCK_MS, memory.block[memory.totals.at]]),
        np.concatenate([own.values, memory.totals.values]),
        until,
    )
    found = {
        "present": count / np.maximum(rows.lengths[segment] if series else count, 1),
        "mean": mean / 4,
        "deviation": deviation / 2,
        "mean_vs_life": np.where(count > 0, mean - life_mean, 0.0),
        "last": last / 4,
        **{f"total_{days}d": signed_log(within[:, i]) / 4 for days, i in _AT.items()},
        "total_28_56d": signed_log(t56 - t28) / 4,
        "total_56_84d": signed_log(t84 - t56) / 4,
        "total": signed_log(total) / 4,
        "total_life": signed_log(life) / 4,
        "total_before": (signed_log(t28) - signed_log(t56 - t28)) / 2,
        "total_level": (signed_log(t28) - signed_log(t84 / 3)) / 2,
        "total_vs_life": (signed_log(t28) - signed_log(per_life)) / 2,
        "total_84d_life": (signed_log(t84 / 3) - signed_log(per_life)) / 2,
        "block_total_deviation": _log(blocks.deviation / (np.abs(blocks.mean) + 1)),
    }
    return np.where(there[:, None], _table(found, NUMBER), np.float32(0))


def _match(rows: WindowArrays) -> Floats:
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


def _log(x: Doubles) -> Doubles:
    logs: Doubles = np.log1p(np.maximum(x, 0.0))
    return logs


def _table(found: Mapping[str, NDArray[np.generic]], table: Mapping[str, str]) -> Floats:
    columns = np.stack([found[name] for name in table], -1)
    return np.clip(columns, -BOUND, BOUND).astype(np.float32)
