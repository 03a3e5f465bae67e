"""Rows that differ anywhere hash differently, and a row's hash is its own, whatever stands beside it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from encoder.forward.row_hash import BYTES, of

Rows = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float16]]


def rows(n: int, numbers: int, dim: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, 1 << 41, n),
        rng.standard_normal((n, numbers)).astype(np.float32),
        rng.standard_normal((n, dim)).astype(np.float16),
    )


def hashes(of_rows: Rows) -> list[bytes]:
    joined = of(*of_rows)
    return [joined[i : i + BYTES] for i in range(0, len(joined), BYTES)]


@given(st.integers(0, 30), st.integers(0, 5), st.integers(1, 40), st.integers(0, 9))
def test_a_row_hashes_as_it_does_alone(n: int, numbers: int, dim: int, seed: int) -> None:
    some = rows(n, numbers, dim, seed)
    alone = [hashes((some[0][i : i + 1], some[1][i : i + 1], some[2][i : i + 1]))[0] for i in range(n)]
    assert hashes(some) == alone
    assert len(set(alone)) == n
    view = tuple(column[::2] for column in some)  # not contiguous
    assert hashes(view) == alone[::2]  # type: ignore[arg-type]


@pytest.mark.parametrize("dim", [3, 8, 384])
def test_any_bit_counts(dim: int) -> None:
    one = rows(1, 3, dim, 0)
    seen = {hashes(one)[0]}
    total = 1
    for column, values in enumerate(one):
        raw = values.view(np.uint8).reshape(-1)
        for byte in range(len(raw)):
            for bit in range(8):
                changed = [each.copy() for each in one]
                changed[column].view(np.uint8).reshape(-1)[byte] ^= 1 << bit
                seen.add(of(*changed))  # type: ignore[arg-type]
                total += 1
    assert len(seen) == total


def test_changes_that_cancel_where_words_are_not_told_apart() -> None:
    """The high halves of words alone, by amounts that add up to nothing; values that change places."""
    vectors = np.zeros((4, 16), np.uint16)
    vectors[1, 3], vectors[1, 7] = 1 << 15, 1 << 15
    vectors[2, 3], vectors[2, 11] = 1 << 15, 1 << 15
    vectors[3, [2, 3]] = 5
    many = np.tile(vectors, (500, 1))
    many[:, 12:] = np.arange(2000)[:, None] & [0, 0, 0, 0xFFFF]
    own = hashes((np.zeros(2000, np.int64), np.zeros((2000, 2), np.float32), many.view(np.float16)))
    assert len(set(own)) == 2000
