"""The index's matrix and the one kernel that scans it (FAISS on the CPU).

A device matrix would replace this class and nothing else: reserve, write rows, `top`.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

_Parameters: Any = faiss.SearchParameters  # its stub does not know `sel`
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

# queries × dim from which FAISS takes BLAS; its default (128,000) leaves a batch of 32 four times slower, and below 8
# queries BLAS loses. Process-wide: there is no way to pass it per call.
faiss.cvar.distance_compute_blas_threshold = 8 * 128

GATHER_SHARE = 0.05
"""Selected rows up to this share of the matrix are gathered one by one; above it a bitmap scan is cheaper."""


class Matrix:
    """float32 (capacity, dim), zeroed. `rows` is a writable view; the caller keeps readers and the writer apart.

    The memory belongs to a flat FAISS index, so that searches among selected rows run in C++ without a copy.
    """

    def __init__(self, capacity: int, dim: int) -> None:
        self.capacity = capacity
        self._flat = faiss.IndexFlatIP(dim)
        self._flat.add(np.zeros((capacity, dim), np.float32))
        # never add() again: it may move the memory under this view
        self.rows: Float32 = faiss.rev_swig_ptr(self._flat.get_xb(), capacity * dim).reshape(capacity, dim)

    def top(self, queries: Float32, fetch: int, *, used: int, selected: Int64 | None = None) -> tuple[Float32, Int64]:
        """The rows with the largest inner products.

        Args:
            queries: float32 (q, dim), C-contiguous, finite.
            fetch: rows wanted per query.
            used: rows [0, used) take part. selected: only these of them; sorted, unique, within [0, used).

        Returns:
            Inner products and rows, (q, fetch), best first; row -1 fills up where there are fewer.
            Of equal inner products any may come first.
        """
        faiss.omp_set_num_threads(1)  # per calling thread; parallelism comes from the threads themselves
        if selected is None:
            scores, rows = faiss.knn(queries, self.rows[:used], fetch, metric=faiss.METRIC_INNER_PRODUCT)
            return scores, rows
        selector, borrowed = _selector(selected, used)
        scores, rows = self._flat.search(queries, fetch, params=_Parameters(sel=selector))
        del borrowed  # not before the search has ended
        return scores, rows


def _selector(selected: Int64, used: int) -> tuple[Any, Any]:
    """A FAISS selector of these rows, and the memory it points into."""
    if len(selected) <= GATHER_SHARE * used:
        rows = np.ascontiguousarray(selected)
        return faiss.IDSelectorArray(len(rows), faiss.swig_ptr(rows)), rows
    mask = np.zeros(used, bool)
    mask[selected] = True
    bits = np.packbits(mask, bitorder="little")
    return faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits)), bits
