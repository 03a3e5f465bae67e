"""The table of statistics: names and meanings. Its version is `encoder.model.features.VERSION`."""

from __future__ import annotations

from typing import NamedTuple

BOUND = 16.0
"""No statistic is beyond it, of either sign."""

SPANS = (1, 7, 14, 28, 56, 84, 90)
"""Days back from `as_of`."""


class Statistic(NamedTuple):
    """meaning: what is counted, before a logarithm is taken. scale: by which it is brought to about one."""

    meaning: str
    scale: float = 1.0


_COUNT, _GAP, _TIME, _AMOUNT = 1 / 3, 1 / 2, 1 / 4, 1 / 4

ACTIVITY = {
    "any": Statistic("1 where the window has rows"),
    **{f"count_{days}d": Statistic(f"rows of the last {days} days", _COUNT) for days in SPANS},
    "count_28_56d": Statistic("rows of 28 to 56 days ago", _COUNT),
    "count_56_84d": Statistic("rows of 56 to 84 days ago", _COUNT),
    "count": Statistic("rows of the window", _COUNT),
    "count_life": Statistic("rows of window and memory", _COUNT),
    "recency": Statistic("hours since the newest event", _TIME),
    "span": Statistic("hours since the window's oldest row", _TIME),
    "tenure": Statistic("hours since the oldest row of window or memory", _TIME),
    "days": Statistic("days with events in the window", _COUNT),
    "days_28d": Statistic("days with events among the last 28", _COUNT),
    "gap_mean": Statistic("days between days with events: mean", _GAP),
    "gap_deviation": Statistic("… standard deviation", _GAP),
    "gap_max": Statistic("… longest", _GAP),
    "recency_per_gap_mean": Statistic("days since the newest event, in mean gaps"),
    "recency_per_gap_max": Statistic("… in longest gaps"),
    "rate_before": Statistic("rate of the last 28 days against the 28 before"),
    "rate_window": Statistic("rate of the last 28 days against the window's"),
    "rate_life": Statistic("rate of the last 28 days against lifetime's"),
    "rate_84d_life": Statistic("rate of the last 84 days against lifetime's"),
    "empty_blocks": Statistic("share of lifetime's blocks of 28 days that have no row"),
    "block_deviation": Statistic("standard deviation of rows per block over their mean"),
    "hour_cos": Statistic("hour of day, circular mean: towards midnight"),
    "hour_sin": Statistic("… towards 6 in the morning"),
    "weekday_cos": Statistic("day of the week, circular mean: towards Monday"),
    "weekday_sin": Statistic("… towards Tuesday and Wednesday"),
    "norm": Statistic("length of the mean vector: 1 where all texts are one"),
}
"""Of a set of events: each modality's, and all of the user's."""

TEXTS = {
    "texts": Statistic("distinct texts in the window", _COUNT),
    "top_text": Statistic("share of the most frequent text"),
}
"""Of each modality."""

NUMBER = {
    "present": Statistic("share of rows that carry the number"),
    "mean": Statistic("mean of its signed logarithms", _AMOUNT),
    "deviation": Statistic("standard deviation of its signed logarithms", 1 / 2),
    "mean_vs_life": Statistic("mean of its signed logarithms against that of window and memory"),
    "last": Statistic("the newest, as signed logarithm", _AMOUNT),
    **{f"total_{days}d": Statistic(f"total of the last {days} days", _AMOUNT) for days in SPANS},
    "total_28_56d": Statistic("total of 28 to 56 days ago", _AMOUNT),
    "total_56_84d": Statistic("total of 56 to 84 days ago", _AMOUNT),
    "total": Statistic("total of the window", _AMOUNT),
    "total_life": Statistic("total of window and memory", _AMOUNT),
    "total_before": Statistic("total of the last 28 days against the 28 before", 1 / 2),
    "total_level": Statistic("total of the last 28 days against a third of the last 84", 1 / 2),
    "total_vs_life": Statistic("total of the last 28 days against lifetime's per 28 days", 1 / 2),
    "total_84d_life": Statistic("a third of the total of the last 84 days against lifetime's per 28 days", 1 / 2),
    "block_total_deviation": Statistic("standard deviation of totals per block over their mean"),
}
"""Of each number of each modality."""
