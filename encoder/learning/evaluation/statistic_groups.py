"""Statistics by what they are about, so that an evaluation can say what each group is worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SPANS = ("count", "count_1d", "count_7d", "count_14d", "count_28d", "count_56d", "count_84d", "count_90d")
_ABOUT = {
    **dict.fromkeys(("any", "count_28_56d", "count_56_84d", *_SPANS), "counts"),
    **dict.fromkeys(("recency", "span"), "recency"),
    **dict.fromkeys(("rate_before", "rate_window"), "rates"),
    **dict.fromkeys(("days", "days_28d", "gap_mean", "gap_deviation", "gap_max"), "gaps"),
    **dict.fromkeys(("recency_per_gap_mean", "recency_per_gap_max"), "gaps"),
    **dict.fromkeys(("hour_cos", "hour_sin", "weekday_cos", "weekday_sin"), "calendar"),
    **dict.fromkeys(("texts", "top_text", "norm"), "distinct"),
    **dict.fromkeys(("count_life", "tenure", "rate_life", "rate_84d_life", "empty_blocks"), "long_memory"),
    **dict.fromkeys(("block_deviation", "total_life", "total_vs_life", "total_84d_life"), "long_memory"),
    "block_total_deviation": "long_memory",
}
"""Of what is counted of a modality and of the user, and what a number's lifetime says; a number's others: `numbers`."""
GROUPS = ("counts", "recency", "rates", "gaps", "calendar", "distinct", "numbers", "long_memory", "match")


def groups(names: Sequence[str]) -> NDArray[np.str_]:
    """The group of each of `statistics.names`."""
    return np.array([_group(name) for name in names])


def _group(name: str) -> str:
    own = name.partition(".")[2]
    if own.startswith("match."):
        return "match"
    outer, _, last = own.rpartition(".")
    return _ABOUT.get(last, "numbers") if outer else _ABOUT[own]
