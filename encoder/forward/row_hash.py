"""Hashes of rows, by which a KV page is believed: 128 bits, all rows of a modality at once.

Two sums over a row's 32-bit words, each word times a random 64-bit number, modulo 2^64. That rows which differ agree in
a sum has a chance of at most 2^-33, mostly 2^-64; in both, its square. The random numbers are this process's own: pages
do not outlive it, and nobody outside can look for rows that agree.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

BYTES = 16
LANES = BYTES // 8

_HALF = np.uint64(32)
_random = np.random.default_rng()


def of(ts: NDArray[np.int64], numbers: NDArray[np.float32], vectors: NDArray[np.float16]) -> bytes:
    """Hashes of rows, `BYTES` each, one after another: ts (n,), numbers (n, k), vectors (n, dim)."""
    rows = len(ts)
    if not rows:
        return b""
    head = np.concatenate(
        [np.ascontiguousarray(column).view(np.uint32).reshape(rows, -1) for column in (ts, numbers)], 1, dtype=np.uint64
    )
    body = np.ascontiguousarray(vectors)
    if rest := -body.shape[1] % 4:
        body = np.pad(body, ((0, 0), (0, rest)))
    words = body.view(np.uint64)
    # The whole word meets the low half's factor; that of the high half is as random after it.
    factors = _factors(words.shape[1])
    sums: NDArray[np.uint64] = np.einsum("ij,kj->ik", words, factors[0])
    sums += np.einsum("ij,kj->ik", words >> _HALF, factors[1])
    sums += np.einsum("ij,kj->ik", head, _factors(head.shape[1])[2])
    return sums.tobytes()


@lru_cache(64)
def _factors(words: int) -> NDArray[np.uint64]:
    """(3, LANES, words): for low halves, high halves, and what stands before the vector."""
    return _random.integers(0, 1 << 64, (3, LANES, words), np.uint64)
