"""Exact sums over a window, so that a summary kept by adding and removing equals a scan, bit for bit (docs/adr/0003).

Vectors are multiples of 2**-14 within [-1, 1], at most 1000 of them: a sum is a multiple of 2**-14 below 2**10, which
needs 24 bits, the mantissa of float32. Numbers are rounded to fixed point before they are added, as Python integers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray

from store.base.settings import ModalityKind, ModalitySettings
from store.buffer.rows import FORMAT, Summary, Vector16, Vector32, unpack_summary

VECTOR_STEP = 2.0**-14
"""Vectors are multiples of this."""
NUMBER_SCALE = 1 << 16
"""Fixed point of signed logs."""
_FEW = 8
"""Windows up to which one numpy call per vector is cheaper than preparing one for all."""
_INF = math.inf
_log1p = math.log1p


def number_width(modality: ModalitySettings) -> int:
    """Numbers of one row of a modality: as configured; a tabular field has one, its own value."""
    return 1 if modality.kind is ModalityKind.TABULAR else len(modality.numbers)


def signed_log(number: float) -> int | None:
    """sign(x) * log(1 + |x|) in fixed point; None where there is no number."""
    if 0 <= number < _INF:
        return round(_log1p(number) * NUMBER_SCALE)
    if -_INF < number < 0:
        return -round(_log1p(-number) * NUMBER_SCALE)
    return None


def _grid() -> NDArray[np.bool_]:
    """Per bit pattern of a float16, whether it is a multiple of 2**-14 within [-1, 1]: what exactness rests on."""
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)
    values[~np.isfinite(values)] = 2.0
    scaled = values / VECTOR_STEP
    return np.asarray((np.rint(scaled) == scaled) & (np.abs(values) <= 1.0))


_OFF_GRID = ~_grid()
_F2, _F4, _U2 = np.dtype("<f2"), np.dtype("<f4"), np.dtype("<u2")


def on_grid(vectors: bytes) -> bool:
    """Whether all values (little-endian float16) are multiples of 2**-14 within [-1, 1]."""
    return not np.count_nonzero(_OFF_GRID.take(np.frombuffer(vectors, _U2)))


class Totals:
    """A summary being changed. Not thread-safe."""

    __slots__ = ("_array", "_vector", "counts", "covers", "ingested_at", "newest", "oldest", "rows", "sums")

    def __init__(self, vector: bytes, width: int) -> None:
        self.rows = 0
        self.oldest = 0
        self.newest = 0
        self.sums = [0] * width
        self.counts = [0] * width
        self.covers: dict[str, int] = {}
        self.ingested_at = 0
        self._vector = vector
        self._array: Vector32 | None = None  # in place of `_vector` once rows were added one by one

    @classmethod
    def empty(cls, dim: int, width: int) -> Totals:
        """Nothing yet."""
        return cls(bytes(4 * dim), width)

    @classmethod
    def of(cls, packed: bytes, width: int) -> Totals | None:
        """The totals in a summary row; None if it counts another number of numbers (the configuration changed)."""
        fmt, rows, oldest, newest, vector, sums, counts, covers, ingested_at = msgpack.unpackb(packed)
        if fmt != FORMAT:
            unpack_summary(packed)  # raises with the reason
        if len(sums) != width:
            return None
        self = cls(vector, 0)
        self.rows, self.oldest, self.newest, self.sums, self.counts = rows, oldest, newest, sums, counts
        self.covers, self.ingested_at = covers, ingested_at
        return self

    @property
    def vector(self) -> bytes:
        """The vector sum, float32 (dim,), little-endian."""
        if self._array is not None:
            self._vector, self._array = self._array.astype(_F4, copy=False).tobytes(), None
        return self._vector

    @vector.setter
    def vector(self, value: bytes) -> None:
        self._vector, self._array = value, None

    def add(self, vector: Vector16, numbers: Sequence[float]) -> None:
        """Count one row in. Does not touch oldest and newest."""
        self.rows += 1
        total = self._own()
        np.add(total, vector, out=total)
        self.count_numbers(numbers, 1)

    def remove(self, vector: Vector16, numbers: Sequence[float]) -> None:
        """Count one row out: the exact inverse of `add`."""
        self.rows -= 1
        total = self._own()
        np.subtract(total, vector, out=total)
        self.count_numbers(numbers, -1)

    def shift(self, arrived: Sequence[bytes], departed: Sequence[bytes]) -> None:
        """Add and subtract vectors, little-endian float16; nothing else changes."""
        total = self._own()
        for vector in arrived:
            np.add(total, np.frombuffer(vector, _F2), total)
        for vector in departed:
            np.subtract(total, np.frombuffer(vector, _F2), total)

    def count_numbers(self, numbers: Sequence[float], sign: int) -> None:
        """Count the numbers of one row in (1) or out (-1)."""
        sums, counts, width = self.sums, self.counts, len(self.sums)
        for i, number in enumerate(numbers):
            if i == width:
                break
            log = signed_log(number)
            if log is not None:
                sums[i] += sign * log
                counts[i] += sign

    def reset_rows(self) -> None:
        """Forget all rows; covers, ingested_at and newest stay."""
        self.rows = self.oldest = 0
        self.vector = bytes(len(self.vector))
        self.sums = [0] * len(self.sums)
        self.counts = [0] * len(self.counts)

    def cover(self, source: str, offset: int, ingested_at: int) -> None:
        """Remember that a raw event was seen, whatever became of it. Merges by maximum: order leaves no trace."""
        if offset > self.covers.get(source, -1):
            self.covers[source] = offset
        if ingested_at > self.ingested_at:
            self.ingested_at = ingested_at

    def freeze(self) -> Summary:
        """The summary row's value."""
        vector = np.frombuffer(self.vector, "<f4")
        return Summary(
            self.rows, self.oldest, self.newest, vector, tuple(self.sums), tuple(self.counts), self.covers,
            self.ingested_at,
        )  # fmt: skip

    def pack(self) -> bytes:
        """The summary row's bytes: those of store/buffer/rows.py::pack_summary."""
        covers = self.covers if len(self.covers) < 2 else dict(sorted(self.covers.items()))
        return msgpack.packb(  # type: ignore[no-any-return]
            (FORMAT, self.rows, self.oldest, self.newest, self.vector, self.sums, self.counts, covers, self.ingested_at)
        )

    def _own(self) -> Vector32:
        if self._array is None:
            self._array = np.frombuffer(self._vector, _F4).astype(np.float32)
        return self._array


class Arrivals(NamedTuple):
    """Rows that come and go in one window: vectors as little-endian float16 bytes."""

    totals: Totals
    arrived: list[bytes]
    departed: list[bytes]


def add_up(changes: Sequence[Arrivals], dim: int) -> None:
    """Bring the vector sums of many windows up to date: few vectors one by one, many in one pass over them all.

    Raises:
        ValueError: an arriving vector is not on the grid, or not of dimension `dim`. Nothing may be committed.
    """
    changes = [change for change in changes if change.arrived or change.departed]
    arrived = b"".join([vector for change in changes for vector in change.arrived])
    if len(arrived) != 2 * dim * sum([len(change.arrived) for change in changes]):
        raise ValueError(f"vectors must have {dim} values")
    if not on_grid(arrived):
        raise ValueError("vectors must be multiples of 2**-14 within [-1, 1]")
    if len(changes) <= _FEW:
        for totals, came, went in changes:
            totals.shift(came, went)
        return
    sums = np.frombuffer(b"".join([change.totals.vector for change in changes]), "<f4").reshape(-1, dim).copy()
    for step, groups in ((np.add, [c.arrived for c in changes]), (np.subtract, [c.departed for c in changes])):
        lengths = np.array([len(group) for group in groups])
        busy = np.flatnonzero(lengths)
        if busy.size:
            flat = arrived if step is np.add else b"".join([vector for group in groups for vector in group])
            rows = np.frombuffer(flat, "<f2").reshape(-1, dim).astype(np.float32)
            starts = np.cumsum(lengths)[busy] - lengths[busy]
            sums[busy] = step(sums[busy], rows[starts])
            if len(rows) > len(busy):  # the few windows with more than one
                more = busy[lengths[busy] > 1]
                rest = np.delete(rows, starts, axis=0)
                starts = np.cumsum(lengths[more] - 1) - (lengths[more] - 1)
                sums[more] = step(sums[more], np.add.reduceat(rest, starts, axis=0))
    size, packed = 4 * dim, sums.tobytes()
    for i, change in enumerate(changes):
        change.totals.vector = packed[i * size : (i + 1) * size]
