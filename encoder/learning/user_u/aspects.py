"""What can be asked of a user's next days: aspects of any configured data, each with its classes.

An aspect is a question with a few possible answers. Its class for a user at a moment is a function of the events of
[moment, moment + horizon) and, where it compares, of the days before; -1 where it does not apply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from encoder.learning.user_u.counts import DAY_MS, Counts, Flags, Ints

USUAL_DAYS = 84
"""What is usual is counted over this many days before the moment."""
REGULAR_DAYS, REGULAR_ROWS = 90, 4
"""Who is asked to compare with what is usual has so many rows in so many days."""

TIMES_BOUNDS = (1, 2, 4, 8)
TREND_BOUNDS = (0.5, 0.85, 1.2)
DROP_BOUND = 0.5

HORIZONS = (7, 14, 28)
"""Days. Answers of the longest reach furthest: a moment is followed by as many days that are known."""

Classes = NDArray[np.int8]


class Kind(StrEnum):
    """What of the horizon's rows decides.

    ANY: whether there are rows. NONE: the same, asked the other way round. ANY_NUMBER: whether one has the number
    above zero. TIMES: how many rows, by `TIMES_BOUNDS`. TOTAL: how much of a number, by bounds. TREND: how much of it
    against the usual, by `TREND_BOUNDS`. DROP: whether it is below half of the usual. TOPIC: whether a row's text is
    of a topic.
    """

    ANY = "any"
    NONE = "none"
    ANY_NUMBER = "any_number"
    TIMES = "times"
    TOTAL = "total"
    TREND = "trend"
    DROP = "drop"
    TOPIC = "topic"


@dataclass(frozen=True)
class Aspect:
    """questions: wordings with {horizon} in them. answers: per class its wordings. bounds: of TOTAL, between classes.

    number: its place among the modality's. topic: for TOPIC. weight: how often it is drawn, against others.
    applies: whom it is asked of, (counts, users, moments) → bool (n,); None = everybody.
    """

    name: str
    kind: Kind
    modality: str
    questions: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]
    number: int = -1
    topic: int = -1
    bounds: tuple[float, ...] = ()
    weight: float = 1.0
    applies: Callable[[Counts, Ints, Ints], Flags] | None = None


class Labels:
    """Classes of aspects on one history."""

    def __init__(self, counts: Counts, until: int, topics: Mapping[str, NDArray[np.int64]] | None = None) -> None:
        """until: ms, where what may be learned ends. topics: see `topics.Topics.of`."""
        self._counts = counts
        self._until = min(until, counts.end)
        self._topics = topics or {}

    def of(self, aspect: Aspect, users: Ints, moments: Ints, horizon_days: int) -> Classes:
        """int8 (n,): the class of each (user, moment); -1 = not asked."""
        ends = moments + horizon_days * DAY_MS
        found = self._classes(aspect, users, moments, ends, horizon_days)
        asked = ends <= self._until
        if aspect.applies is not None:
            asked &= aspect.applies(self._counts, users, moments)
        return np.where(asked, found, -1).astype(np.int8)

    def _classes(self, aspect: Aspect, users: Ints, moments: Ints, ends: Ints, days: int) -> NDArray[np.int64]:
        counts, modality, number = self._counts, aspect.modality, aspect.number
        match aspect.kind:
            case Kind.ANY:
                return _places(counts.rows(modality, users, moments, ends) > 0)
            case Kind.NONE:
                return _places(counts.rows(modality, users, moments, ends) == 0)
            case Kind.ANY_NUMBER:
                return _places(counts.positive(modality, number, users, moments, ends) > 0)
            case Kind.TIMES:
                return np.digitize(counts.rows(modality, users, moments, ends), TIMES_BOUNDS).astype(np.int64)
            case Kind.TOPIC:
                seen = counts.on_topic(modality, self._topics[modality], aspect.topic, users, moments, ends)
                return (seen > 0).astype(np.int64)
            case Kind.TOTAL:
                total = counts.total(modality, number, users, moments, ends)
                return np.digitize(total, aspect.bounds).astype(np.int64)
        usual = counts.total(modality, number, users, moments - USUAL_DAYS * DAY_MS, moments) * days / USUAL_DAYS
        regular = counts.rows(modality, users, moments - REGULAR_DAYS * DAY_MS, moments) >= REGULAR_ROWS
        share = counts.total(modality, number, users, moments, ends) / np.where(usual > 0, usual, 1.0)
        bounds = TREND_BOUNDS if aspect.kind is Kind.TREND else (DROP_BOUND,)
        found = np.digitize(share, bounds)
        if aspect.kind is Kind.DROP:
            found = 1 - found
        return np.where(regular & (usual > 0), found, -1).astype(np.int64)


def _places(flags: Flags) -> Ints:
    """Places among a no and a yes."""
    return flags.astype(np.int64)


def quantile_bounds(values: NDArray[np.float64], parts: int) -> tuple[float, ...]:
    """Bounds between 0 and `parts` about equal parts of what is above zero, rounded to two digits: what people say."""
    above = values[values > 0]
    if not len(above):
        return ()
    cuts = np.quantile(above, np.linspace(0, 1, parts + 1)[1:-1])
    digits = np.power(10.0, np.floor(np.log10(np.maximum(cuts, 1e-9))) - 1)
    return (1e-9, *sorted({float(np.round(cut / digit) * digit) for cut, digit in zip(cuts, digits, strict=True)}))


def yes_or_no(yes: Sequence[str], no: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Answers of a binary aspect, the no first."""
    return (
        tuple(text for each in no for text in (f"no, {each}", each)),
        tuple(text for each in yes for text in (f"yes, {each}", each)),
    )
