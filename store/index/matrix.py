"""The index's matrix and the kernels that scan it (FAISS on the CPU).

A device matrix would replace this class and nothing else: reserve, write rows, `top`, `products`.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

BLAS_QUERIES = 8
"""Fewer queries are scanned one by one: BLAS loses there."""
# queries × dim from which FAISS takes BLAS; its default (128,000) leaves a batch of 32 four times slower. Process-wide:
# there is no way to pass it per call.
faiss.cvar.distance_compute_blas_threshold = BLAS_QUERIES * 128

_products: Any = faiss.fvec_inner_products_ny  # type: ignore[attr-defined]  # its stub does not know it

GATHER_SHARE = 0.25
"""Rows that take part are copied together up to this share of a block; above it a block is scanned whole."""


class Matrix:
    """float32 (capacity, dim), zeroed. `rows` is a writable view; the caller keeps readers and the writer apart."""

    def __init__(self, capacity: int, dim: int) -> None:
        self.capacity = capacity
        self.rows: Float32 = np.zeros((capacity, dim), np.float32)

    def top(
        self,
        queries: Float32,
        fetch: int,
        *,
        start: int,
        stop: int,
        mask: NDArray[np.bool_],
        floor: Float32 | None = None,
    ) -> tuple[Float32, Int64]:
        """The rows of a block with the largest inner products.

        Args:
            queries: float32 (q, dim), C-contiguous, finite.
            fetch: rows wanted per query.
            start, stop: the block, rows [start, stop). mask: bool (stop - start,), which of them take part.
            floor: per query, what rows must reach to matter: others may be left out.

        Returns:
            Inner products and rows, (q, m), in any order; row -1 (score -inf) fills up where there are fewer.
            Of equal inner products any may be taken.
        """
        faiss.omp_set_num_threads(1)  # per calling thread; parallelism comes from the threads themselves
        size = stop - start
        taking = int(np.count_nonzero(mask))
        if not taking:
            return np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
        outside = size - taking
        if outside <= fetch:
            # whole, with as many more as may have to go
            scores, rows = _knn(queries, self.rows[start:stop], min(size, fetch + outside))
            if outside:
                out = ~mask[rows]
                scores[out], rows[out] = -np.inf, -1 - start
            return scores, rows + start
        if len(queries) < BLAS_QUERIES and taking > GATHER_SHARE * size:
            each = [self._masked(query, fetch, start, stop, mask, floor, i) for i, query in enumerate(queries)]
            most = max(len(rows) for _, rows in each)
            scores, rows = np.full((len(queries), most), -np.inf, np.float32), np.full((len(queries), most), -1)
            for i, (some, which) in enumerate(each):
                scores[i, : len(some)], rows[i, : len(some)] = some, which
            return scores, rows
        chosen = start + np.flatnonzero(mask)
        scores, rows = _knn(queries, self.rows[chosen], min(taking, fetch))
        return scores, chosen[rows]

    def products(self, query: Float32, *, start: int, stop: int) -> Float32:
        """Inner products of a query (dim,) with rows [start, stop)."""
        out = np.empty(stop - start, np.float32)
        block = self.rows[start:stop]
        pointers = faiss.swig_ptr(out), faiss.swig_ptr(query), faiss.swig_ptr(block)
        _products(*pointers, block.shape[1], len(block))
        return out

    def _masked(
        self,
        query: Float32,
        fetch: int,
        start: int,
        stop: int,
        mask: NDArray[np.bool_],
        floor: Float32 | None,
        i: int,
    ) -> tuple[Float32, Int64]:
        scores = self.products(query, start=start, stop=stop)
        rows = np.flatnonzero(mask if floor is None else (scores >= floor[i]) & mask)
        if len(rows) > fetch:
            rows = rows[np.argpartition(-scores[rows], fetch - 1)[:fetch]]
        return scores[rows], rows + start


def _knn(queries: Float32, block: Float32, fetch: int) -> tuple[Float32, Int64]:
    scores, rows = faiss.knn(queries, block, fetch, metric=faiss.METRIC_INNER_PRODUCT)
    return scores, rows
