"""Exact sums over a window, so that a summary kept by adding and removing equals a scan, bit for bit (docs/adr/0003).

Vectors are multiples of 2**-14 within [-1, 1], at most 1000 of them: a sum is a multiple of 2**-14 below 2**10, which
needs 24 bits, the mantissa of float32. Numbers are rounded to fixed point before they are added, as Python integers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from store.window.rows import FORMAT, SummaryRow, Vector16, Vector32, decode_summary, event_parts

VECTOR_STEP = 2.0**-14
"""Vectors are multiples of this."""
NUMBER_SCALE = 1 << 16
"""Fixed point of signed logs."""
_FEW = 32
"""Windows, or rows of numbers, up to which one call for each is no dearer than preparing one for all."""
_RARE = 8
"""Windows up to which the rest of their rows is summed for each of them."""
_INF = math.inf
_log1p = math.log1p


def signed_log(number: float) -> int | None:
    """sign(x) * log(1 + |x|) in fixed point; None where there is no number."""
    if 0 <= number < _INF:
        return round(_log1p(number) * NUMBER_SCALE)
    if -_INF < number < 0:
        return -round(_log1p(-number) * NUMBER_SCALE)
    return None


def signed_logs(numbers: Vector32) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """`signed_log` of many, 0 where there is no number, and where there is one. `math.log1p`, since numpy's may differ
    from it in the last bit."""
    present = np.isfinite(numbers)
    values = np.where(present, numbers, 0.0).astype(np.float64)
    logs = np.fromiter(map(_log1p, np.abs(values).ravel().tolist()), np.float64, values.size).reshape(values.shape)
    return np.copysign(np.rint(logs * NUMBER_SCALE), values).astype(np.int64), present


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


class Totals(SummaryRow, gc=False):
    """A summary row being changed. Not thread-safe."""

    @classmethod
    def empty(cls, dim: int, width: int) -> Self:
        """Nothing yet."""
        return cls(FORMAT, 0, 0, 0, bytes(4 * dim), [0] * width, [0] * width, {}, 0)

    @classmethod
    def of(cls, packed: bytes, width: int) -> Totals | None:
        """The totals in a summary row; None if it counts another number of numbers (the configuration changed)."""
        found = decode_summary(_decode, packed)
        return found if len(found.sums) == width else None

    def add(self, vector: Vector16, numbers: Sequence[float]) -> None:
        """Count one row in. Does not touch oldest and newest."""
        self.rows += 1
        self.shift([vector], ())
        self.count_numbers(numbers, 1)

    def remove(self, vector: Vector16, numbers: Sequence[float]) -> None:
        """Count one row out: the exact inverse of `add`."""
        self.rows -= 1
        self.shift((), [vector])
        self.count_numbers(numbers, -1)

    def shift(self, arrived: Sequence[Vector16], departed: Sequence[Vector16]) -> None:
        """Add and subtract vectors; nothing else changes."""
        total = np.frombuffer(self.vector, _F4).astype(np.float32)
        for vector in departed:
            np.subtract(total, vector, total)
        for vector in arrived:
            np.add(total, vector, total)
        self.vector = total.astype(_F4, copy=False).tobytes()

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
        """Forget all rows; covers, ingested_at, newest and erased stay."""
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

    def pack(self) -> bytes:
        """The summary row's bytes: those of store/window/rows.py::pack_summary."""
        if len(self.covers) > 1:
            self.covers = dict(sorted(self.covers.items()))
        return self.packed()


_decode = msgspec.msgpack.Decoder(Totals).decode


class Row(Protocol):
    """Of an event or a field: its vector, float16 (dim,), and its numbers, float32 (k,)."""

    @property
    def vector(self) -> Vector16: ...
    @property
    def numbers(self) -> Vector32: ...


class Arrivals(NamedTuple):
    """Rows that come to one window, and packed event rows that leave it."""

    totals: Totals
    rows: Sequence[Row]
    departed: Sequence[bytes]


def _arriving(change: Arrivals) -> int:
    return len(change.rows)


class VectorTable:
    """The distinct vectors among those of a batch: checked, converted and packed once, however many rows share one.

    packed: by a vector's `id`, little-endian float16.
    """

    def __init__(self, vectors: Sequence[Vector16], dim: int) -> None:
        """
        Raises:
            ValueError: a vector is not on the grid, or not of dimension `dim`.
        """
        self._vectors = dict(zip(map(id, vectors), vectors, strict=True))  # held, so that no id is given away
        packed = b"".join([vector.astype(_F2, copy=False).tobytes() for vector in self._vectors.values()])
        if not set(map(len, self._vectors.values())) <= {dim}:
            raise ValueError(f"vectors must have {dim} values")
        if not on_grid(packed):
            raise ValueError("vectors must be multiples of 2**-14 within [-1, 1]")
        size = 2 * dim
        self.packed = {key: packed[i * size : (i + 1) * size] for i, key in enumerate(self._vectors)}
        self._array = np.frombuffer(packed, _F2).reshape(-1, dim)

    def rows(self, vectors: Sequence[Vector16]) -> tuple[Vector32, NDArray[np.intp]]:
        """The distinct vectors, float32 (distinct, dim), and where each of `vectors` is in them."""
        row_of = dict(zip(self._vectors, range(len(self._vectors)), strict=True))
        return self._array.astype(np.float32), np.array([row_of[key] for key in map(id, vectors)], np.intp)


def add_up(changes: Sequence[Arrivals], dim: int) -> VectorTable:
    """Bring sums and counts of many windows up to date: few rows one by one, many in one pass over them all.

    Returns:
        The vectors that came.

    Raises:
        ValueError: an arriving vector is not on the grid, or not of dimension `dim`. Nothing may be committed.
    """
    # those to which most rows come first, as `_step` wants them
    changes = sorted([c for c in changes if c.rows or c.departed], key=_arriving, reverse=True)
    arrived = [row.vector for change in changes for row in change.rows]
    table = VectorTable(arrived, dim)
    departed = [[event_parts(value) for value in change.departed] for change in changes]
    if len(changes) <= _FEW:
        for change, rows in zip(changes, departed, strict=True):
            change.totals.shift([row.vector for row in change.rows], [np.frombuffer(v, _F2) for _, v in rows])
    else:
        sums = np.frombuffer(bytearray().join([change.totals.vector for change in changes]), _F4).reshape(-1, dim)
        # first what goes: no sum on the way is one of more than 1000 vectors
        gone = np.frombuffer(b"".join([vector for rows in departed for _, vector in rows]), _F2).reshape(-1, dim)
        _step(sums, gone.astype(np.float32), np.arange(len(gone)), [len(rows) for rows in departed], np.subtract)
        _step(sums, *table.rows(arrived), [len(change.rows) for change in changes], np.add)
        size, packed = 4 * dim, sums.tobytes()
        for i, change in enumerate(changes):
            change.totals.vector = packed[i * size : (i + 1) * size]
    totals = [change.totals for change in changes]
    _count(totals, [[row.numbers for row in change.rows] for change in changes], 1)
    _count(totals, [[np.frombuffer(numbers, _F4) for numbers, _ in rows] for rows in departed], -1)
    return table


def _step(sums: Vector32, table: Vector32, rows: NDArray[np.intp], counts: Sequence[int], step: np.ufunc) -> None:
    """Add or subtract (`step`) rows of `table`: the first counts[0] of `rows` to sums[0], the next to sums[1], …"""
    if not rows.size:
        return
    many = np.array(counts)
    ends = np.cumsum(many)
    falling = not np.any(many[1:] > many[:-1])
    if not falling:
        order = np.argsort(-many, kind="stable")
        many, ends, unsorted, sums = many[order], ends[order], sums, sums[order]
    starts, descending, level = ends - many, -many, 0
    # the first row of each window that has one, then the second, …
    while (busy := int(np.searchsorted(descending, -level))) > _RARE:
        some = sums[:busy]
        step(some, table[rows[starts[:busy] + level]], some)
        level += 1
    for i in range(busy):
        step(sums[i], table[rows[starts[i] + level : ends[i]]].sum(axis=0), sums[i])
    if not falling:
        unsorted[order] = sums


def _count(totals: Sequence[Totals], numbers: Sequence[Sequence[Vector32]], sign: int) -> None:
    """Count rows of numbers in (1) or out (-1): numbers[i] are those of totals[i]."""
    if sum(map(len, numbers)) <= _FEW:
        for one, rows in zip(totals, numbers, strict=True):
            for row in rows:
                one.count_numbers(row.tolist(), sign)
        return
    widths: dict[int, list[tuple[Totals, Sequence[Vector32]]]] = {}
    for one, rows in zip(totals, numbers, strict=True):
        if rows and one.sums:
            widths.setdefault(len(one.sums), []).append((one, rows))
    for width, windows in widths.items():
        flat = [row for _, rows in windows for row in rows]
        if set(map(len, flat)) != {width}:
            for one, rows in windows:
                for row in rows:
                    one.count_numbers(row.tolist(), sign)
            continue
        packed = b"".join([row.tobytes() for row in flat])  # an array's first use as a buffer costs five times that
        logs, present = signed_logs(np.frombuffer(packed, _F4).reshape(-1, width))
        starts = np.cumsum([0, *[len(rows) for _, rows in windows[:-1]]])
        sums = (sign * np.add.reduceat(logs, starts)).tolist()
        counts = (sign * np.add.reduceat(present.astype(np.int64), starts)).tolist()
        for (one, _), more, n in zip(windows, sums, counts, strict=True):
            for i in range(width):
                one.sums[i] += more[i]
                one.counts[i] += n[i]
