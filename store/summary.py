"""Exact sums over a window, so that a summary kept by adding and removing equals a scan, bit for bit (docs/adr/0003).

Vectors are multiples of 2**-14 within [-1, 1], at most 1000 of them: a sum is a multiple of 2**-14 below 2**10, which
needs 24 bits, the mantissa of float32. Numbers are rounded to fixed point before they are added, as Python integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import msgpack
import numpy as np

from store.rows import FORMAT, Summary, Vector16, Vector32, pack_summary, unpack_summary
from store.settings import ModalityKind, ModalitySettings

VECTOR_STEP = 2.0**-14
"""Vectors are multiples of this."""
NUMBER_SCALE = 1 << 16
"""Fixed point of signed logs."""


def number_width(modality: ModalitySettings) -> int:
    """Numbers of one row of a modality: as configured; a tabular field has one, its own value."""
    return 1 if modality.kind is ModalityKind.TABULAR else len(modality.numbers)


def signed_log(number: float) -> int | None:
    """sign(x) * log(1 + |x|) in fixed point; None where there is no number."""
    if not math.isfinite(number):
        return None
    return round(math.copysign(math.log1p(abs(number)), number) * NUMBER_SCALE)


def on_grid(vectors: Iterable[Vector16]) -> bool:
    """Whether all vectors (one shape) are multiples of 2**-14 within [-1, 1]: what exactness rests on."""
    scaled = np.stack([*vectors]).astype(np.float32) * np.float32(1 / VECTOR_STEP)
    return bool((np.rint(scaled) == scaled).all() and np.abs(scaled).max(initial=0.0) <= 1 / VECTOR_STEP)


class Totals:
    """A summary being changed. Not thread-safe; every method but `pack` and `freeze` modifies it."""

    __slots__ = ("_vector", "_writable", "counts", "covers", "ingested_at", "newest", "oldest", "rows", "sums")

    def __init__(self, vector: Vector32 | bytes, width: int) -> None:
        self.rows = 0
        self.oldest = 0
        self.newest = 0
        self.sums = [0] * width
        self.counts = [0] * width
        self.covers: dict[str, int] = {}
        self.ingested_at = 0
        self._vector: Any = vector
        self._writable = not isinstance(vector, bytes)

    @classmethod
    def empty(cls, dim: int, width: int) -> Totals:
        """Nothing yet."""
        return cls(np.zeros(dim, np.float32), width)

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

    def add(self, vector: Vector16, numbers: Vector32) -> None:
        """Count one row in. Does not touch oldest and newest."""
        self.rows += 1
        total = self._own()
        np.add(total, vector, out=total)
        self._number(numbers, 1)

    def remove(self, vector: Vector16, numbers: Vector32) -> None:
        """Count one row out: the exact inverse of `add`."""
        self.rows -= 1
        total = self._own()
        np.subtract(total, vector, out=total)
        self._number(numbers, -1)

    def reset_rows(self) -> None:
        """Forget all rows; covers, ingested_at and newest stay."""
        self.rows = self.oldest = 0
        self._vector = np.zeros_like(self._own())
        self.sums = [0] * len(self.sums)
        self.counts = [0] * len(self.counts)

    def cover(self, source: str, offset: int, ingested_at: int) -> None:
        """Remember that a raw event was seen, whatever became of it. Merges by maximum: order leaves no trace."""
        if offset > self.covers.get(source, -1):
            self.covers[source] = offset
        if ingested_at > self.ingested_at:
            self.ingested_at = ingested_at

    def freeze(self) -> Summary:
        """The summary row's value, sharing the vector."""
        vector = np.frombuffer(self._vector, "<f4") if isinstance(self._vector, bytes) else self._vector
        return Summary(
            self.rows, self.oldest, self.newest, vector, tuple(self.sums), tuple(self.counts), self.covers,
            self.ingested_at,
        )  # fmt: skip

    def pack(self) -> bytes:
        """The summary row's bytes."""
        return pack_summary(self.freeze())

    def _number(self, numbers: Vector32, sign: int) -> None:
        width = len(self.sums)
        if width and numbers.size:
            for i, number in enumerate(numbers.tolist()[:width]):
                log = signed_log(number)
                if log is not None:
                    self.sums[i] += sign * log
                    self.counts[i] += sign

    def _own(self) -> Vector32:
        if not self._writable:
            self._vector = np.frombuffer(self._vector, "<f4").astype(np.float32)
            self._writable = True
        vector: Vector32 = self._vector
        return vector
