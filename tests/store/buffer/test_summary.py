"""Sums over a window are exact: adding and removing never drifts (docs/adr/0003)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.settings import MAX_EVENTS_LIMIT
from store.buffer.summary import NUMBER_SCALE, Totals, on_grid, signed_log


def test_the_largest_window_is_exact() -> None:
    """1000 vectors of ones and of ones less one step: the widest sums there are."""
    totals, exact = Totals.empty(2, 0), np.zeros(2)
    top = np.array([1.0, 1 - 2**-11], np.float16)
    assert on_grid(top.tobytes())
    for _ in range(MAX_EVENTS_LIMIT):
        totals.add(top, [])
        exact += top.astype(np.float64)
    assert np.array_equal(totals.freeze().vector_sum, exact)
    small = np.array([2**-14, -(2**-14)], np.float16)
    totals.remove(top, [])
    totals.add(small, [])
    assert np.array_equal(totals.freeze().vector_sum, exact - top + small)


@given(st.lists(st.tuples(st.integers(0, 2**32), st.booleans()), max_size=60))
def test_adding_and_removing_equals_adding_what_is_left(steps: list[tuple[int, bool]]) -> None:
    totals, left = Totals.empty(8, 2), []
    for seed, remove in steps:
        rng = np.random.default_rng(seed)
        row = ((rng.integers(-16384, 16385, 8) // 8 * 8 / 16384).astype(np.float16),
               [float(rng.normal() * 10.0 ** rng.integers(-6, 30)), math.nan])  # fmt: skip
        if remove and left:
            totals.remove(*left.pop(seed % len(left)))
        left.append(row)
        totals.add(*row)
    again = Totals.empty(8, 2)
    for row in reversed(left):
        again.add(*row)
    assert again.pack() == totals.pack()
    assert Totals.of(totals.pack(), 2).pack() == totals.pack()  # type: ignore[union-attr]
    assert Totals.of(totals.pack(), 3) is None


@pytest.mark.parametrize(
    ("number", "log"), [(0.0, 0.0), (math.e - 1, 1.0), (1 - math.e, -1.0), (3e38, math.log1p(3e38))]
)
def test_signed_logs_are_fixed_point(number: float, log: float) -> None:
    assert signed_log(number) == round(log * NUMBER_SCALE)


@pytest.mark.parametrize("missing", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_missing(missing: float) -> None:
    assert signed_log(missing) is None
