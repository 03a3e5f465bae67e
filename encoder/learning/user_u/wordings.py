"""Questions and answers about any configured data, from the names in its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from encoder.learning.user_u.aspects import HORIZONS, Aspect, Kind, quantile_bounds, yes_or_no
from encoder.learning.user_u.counts import DAY_MS, Counts, Ints
from encoder.model.adapters import spoken
from store.base.settings import ModalityKind, ModalitySettings

TIMES_SAID = ("none", "one", "two or three", "four to seven", "eight or more")
TREND_SAID = ("far less than usual", "somewhat less than usual", "about as much as usual", "more than usual")

_SPANS = {
    7: ("the next 7 days", "the coming week", "the next week"),
    14: ("the next 14 days", "the coming two weeks", "the next fortnight"),
    28: ("the next 28 days", "the coming four weeks", "the next four weeks", "the next month"),
}
_TOTAL_PARTS = 5


def spans(days: int) -> tuple[str, ...]:
    """How a horizon is said."""
    return _SPANS.get(days, (f"the next {days} days",))


def of_configuration(
    modalities: Mapping[str, ModalitySettings], counts: Counts, users: Ints, moments: Ints
) -> list[Aspect]:
    """Aspects of every modality of events and each of its numbers.

    Args:
        users, moments: of a sample of the training part, int64 (n,): bounds of amounts are quantiles of theirs.
    """
    found: list[Aspect] = []
    for name, settings in modalities.items():
        if settings.kind is not ModalityKind.EVENTS:
            continue
        called = spoken(name)
        found += _of_rows(name, called)
        for place, number in enumerate(settings.numbers):
            ends = moments + max(HORIZONS) * DAY_MS
            found += _of_number(
                name,
                called,
                place,
                spoken(number),
                quantile_bounds(counts.total(name, place, users, moments, ends), _TOTAL_PARTS),
                has_zeros=bool(np.mean(counts.positive(name, place, users, moments, ends) > 0) < _OFTEN),
            )
    return found


_OFTEN = 0.95
"""A number that nearly everybody has above zero is no question of yes and no."""


def _of_rows(name: str, called: str) -> list[Aspect]:
    some = yes_or_no((f"there is a {called}", f"the user has a {called} event"), (f"there is no {called}",))
    return [
        Aspect(
            f"{name}.any",
            Kind.ANY,
            name,
            (f"Will there be a {called} within {{horizon}}?", f"Any {called} event in {{horizon}}?"),
            some,
        ),
        Aspect(
            f"{name}.none",
            Kind.NONE,
            name,
            (
                f"Will this user stop: no {called} within {{horizon}}?",
                f"Does the user stay away from {called} in {{horizon}}?",
            ),
            yes_or_no((f"the user stops, no {called} comes",), (f"the user goes on, there is a {called}",)),
        ),
        Aspect(
            f"{name}.times",
            Kind.TIMES,
            name,
            (f"How many {called} events will there be within {{horizon}}?", f"How often {called} in {{horizon}}?"),
            tuple((f"{said} {called}", f"there are {said} {called} events") for said in TIMES_SAID),
        ),
    ]


def _of_number(
    name: str, called: str, place: int, number: str, bounds: Sequence[float], *, has_zeros: bool
) -> list[Aspect]:
    if not bounds:
        return []
    levels = ["nothing", *(f"up to {bound:g}" for bound in bounds[1:]), f"over {bounds[-1]:g}"]
    found = [
        Aspect(
            f"{name}.{number}.total",
            Kind.TOTAL,
            name,
            (f"How much {called} {number} in all within {{horizon}}?", f"Total {number} of {called} in {{horizon}}?"),
            tuple((f"{level}", f"a total {called} {number} of {level}") for level in levels),
            number=place,
            bounds=tuple(bounds),
        ),
        Aspect(
            f"{name}.{number}.trend",
            Kind.TREND,
            name,
            (
                f"How will {called} {number} compare with the usual level in {{horizon}}?",
                f"Trend of {called} {number} in {{horizon}}?",
            ),
            tuple((said, f"{called} {number} is {said}") for said in TREND_SAID),
            number=place,
        ),
        Aspect(
            f"{name}.{number}.drop",
            Kind.DROP,
            name,
            (
                f"Will {called} {number} fall below half of its usual level in {{horizon}}?",
                f"Drop of {called} {number} in {{horizon}}?",
            ),
            yes_or_no(
                (f"{called} {number} falls below half of the usual",), (f"{called} {number} stays near the usual",)
            ),
            number=place,
        ),
    ]
    if has_zeros:
        found.append(
            Aspect(
                f"{name}.{number}.any",
                Kind.ANY_NUMBER,
                name,
                (
                    f"Will there be any {called} with {number} within {{horizon}}?",
                    f"Any {number} of {called} in {{horizon}}?",
                ),
                yes_or_no((f"there is a {called} with {number}",), (f"there is no {called} with {number}",)),
                number=place,
            )
        )
    return found
