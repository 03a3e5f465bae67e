"""Sums over a window are exact: adding and removing never drifts (docs/adr/0003)."""

from __future__ import annotations

import math

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.settings import MAX_EVENTS_LIMIT
from store.window.rows import EventRow, Vector16, Vector32, pack_event
from store.window.summary import NUMBER_SCALE, Arrivals, Totals, add_up, on_grid, signed_log, signed_logs


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


bits = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40)


@given(bits)
def test_signed_logs_of_many_are_those_of_each(patterns: list[int]) -> None:
    """Every float32 there is: infinities, NaN, denormals, both zeros."""
    numbers = np.array(patterns, np.uint32).view(np.float32)
    logs, present = signed_logs(numbers.reshape(-1, 1))
    one_by_one = [signed_log(number) for number in numbers.tolist()]
    assert [
        log if there else None for (log,), (there,) in zip(logs.tolist(), present.tolist(), strict=True)
    ] == one_by_one
    assert not logs[~present].any()


_RNG = np.random.default_rng(3)
_VECTORS: list[Vector16] = list((_RNG.integers(-16384, 16385, (6, 8)) // 8 * 8 / 16384).astype(np.float16))


def _rows(rng: np.random.Generator, count: int, width: int, *, mixed: bool) -> list[tuple[Vector16, Vector32]]:
    """Rows with as many numbers as are configured or, if `mixed`, with other numbers of them too."""
    rows = []
    for _ in range(count):
        k = width if not mixed or rng.random() < 0.5 else int(rng.integers(0, 4))
        values = rng.normal(size=k) * 10.0 ** rng.integers(-6, 30)
        numbers = np.where(rng.random(k) < 0.2, np.nan, values).astype(np.float32)
        rows.append((_VECTORS[rng.integers(0, len(_VECTORS))], numbers))
    return rows


window = st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(0, 12), st.booleans())


@given(st.lists(window, max_size=14), st.integers(0, 2**32))
def test_many_windows_at_once_equal_row_by_row(windows: list[tuple[int, int, int, bool]], seed: int) -> None:
    """Shared vectors, windows without rows, rows with other numbers than are configured now."""
    changes, expected, rng = [], [], np.random.default_rng(seed)
    for width, arriving, departing, mixed in windows * 4:  # up to 56: either way of adding up
        came, went = (_rows(rng, count, width, mixed=mixed) for count in (arriving, departing))
        slow, fast = Totals.empty(8, width), Totals.empty(8, width)
        for totals in (slow, fast):
            for vector, numbers in went:
                totals.add(vector, numbers.tolist())
        for vector, numbers in went:
            slow.remove(vector, numbers.tolist())
        for vector, numbers in came:
            slow.add(vector, numbers.tolist())
        fast.rows = slow.rows
        rows = [pack_event(EventRow(0, numbers, vector)) for vector, numbers in went]
        arrivals = [EventRow(0, numbers, vector) for vector, numbers in came]
        changes.append(Arrivals(fast, arrivals, rows))
        expected.append(slow)
    table = add_up(changes, 8)
    assert [change.totals.pack() for change in changes] == [totals.pack() for totals in expected]
    assert all(table.packed[id(row.vector)] == row.vector.tobytes() for change in changes for row in change.rows)


counts = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)


@given(
    st.tuples(st.integers(0, 2**16), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)),
    st.binary(max_size=70_000), counts, counts,
    st.dictionaries(st.text(max_size=40), st.integers(-1, 2**63 - 1), max_size=20), st.integers(0, 2**63 - 1),
)  # fmt: skip
def test_a_summary_is_the_msgpack_array_it_always_was(
    head: tuple[int, int, int], vector: bytes, sums: list[int], numbers: list[int], covers: dict[str, int], at: int
) -> None:
    packed = Totals(1, *head, vector, sums, numbers, covers, at).pack()
    assert packed == msgpack.packb((1, *head, vector, sums, numbers, dict(sorted(covers.items())), at))
    assert msgpack.packb(msgpack.unpackb(packed)) == packed
