"""From candidate rows to an exact, stable order: score first, then user id. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

KERNEL_ERROR = 1e-5
"""Bound on how far a float32 inner product of two unit vectors lies from the exact one: 128 × 2^-24, rounded up.
FAISS's kernels differ among themselves by 5e-7, so no order is ever taken from them."""


SCORE_ERROR = 1e-6
"""How far rounding to float32 takes the score of two vectors that were equal from 1; `min_score` gives way so much."""


class Neighbor(NamedTuple):
    """score: cosine in [-1, 1], float64 arithmetic over the float32 rows."""

    user_id: str
    score: float


def exact_scores(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosines of unit rows (n, dim) with a unit query (dim,), (n,). Equal rows give equal scores, bit for bit."""
    # an elementwise product and a sum per row: unlike BLAS, the result does not depend on a row's position
    scores: NDArray[np.float64] = (vectors.astype(np.float64) * query.astype(np.float64)).sum(axis=1)
    return scores.clip(-1.0, 1.0)


def best(scores: NDArray[np.float64], rows: NDArray[np.int64], user: Callable[[int], str], k: int) -> NDArray[np.int64]:
    """Which (positions) are the k best by (score descending, user id ascending), in any order."""
    if len(scores) <= k:
        return np.arange(len(scores))
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    above = np.flatnonzero(scores > kth)
    tied = np.flatnonzero(scores == kth)
    named = ((user(row), at) for row, at in zip(rows[tied].tolist(), tied.tolist(), strict=True))
    return np.concatenate([above, [at for _, at in heapq.nsmallest(k - len(above), named)]]).astype(np.int64)


def rank(scores: NDArray[np.float64], users: Sequence[str], k: int, min_score: float | None) -> list[Neighbor]:
    """The k best by (score descending, user id ascending), those below `min_score` left out."""
    pairs = (
        (-score, user)
        for score, user in zip(scores.tolist(), users, strict=True)
        if min_score is None or score >= min_score - SCORE_ERROR
    )
    return [Neighbor(user, -negative) for negative, user in heapq.nsmallest(k, pairs)]


def unit(vectors: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """Rows scaled to unit length, float32 (q, dim).

    Raises:
        ValueError: another shape, a value not finite, or a zero vector.
    """
    out = np.array(vectors, np.float32, ndmin=2)
    if out.ndim != 2 or out.shape[1] != dim:
        raise ValueError(f"a vector has {dim} values; got {out.shape[-1]}")
    if not np.isfinite(out).all():
        raise ValueError("a vector's values must be finite numbers")
    norms = np.linalg.norm(out.astype(np.float64), axis=1, keepdims=True)
    if (norms < 1e-12).any():
        raise ValueError("a vector of zeros has no direction")
    return np.ascontiguousarray((out / norms).astype(np.float32))
