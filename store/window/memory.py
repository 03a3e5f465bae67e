"""What is kept of events that have left a window: how many there are, and sums of their numbers, per 28 days.

Integers and fixed point only: adding and removing rows in whatever order ends in what a scan finds, bit for bit. Blocks
are counted from the epoch, so that which one a row falls into depends on the row alone.

    blocks = block, …, in the order of their numbers; those without a row are left out
    block  = u32 number | u32 rows | n × (i64 sum | i128 total | u32 count)

Integers are big-endian; n = numbers of the modality.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK_MS = 28 * 86_400_000
"""Length of a block, ms: event time // BLOCK_MS is its number."""
TOTAL_SCALE = 1 << 10
"""Fixed point of totals."""
TOTAL_LIMIT = 1 << 40
"""A number beyond counts as this, so that one outlier does not drown the others."""


class Block(NamedTuple):
    """Rows of one block: per number the fixed-point sum of signed logs (`summary.NUMBER_SCALE`), the fixed-point sum of
    values (TOTAL_SCALE, each within ±TOTAL_LIMIT), and how many rows carried it."""

    rows: int
    sums: tuple[int, ...]
    totals: tuple[int, ...]
    counts: tuple[int, ...]


class Memory(NamedTuple):
    """Of one (user, modality): rows that left the window by age or number. What the window holds is not in it.

    rows: how many. oldest: event time of the oldest, ms; 0 when there is none.
    blocks: by event time // BLOCK_MS, ascending; only those with rows. Not to be changed.
    """

    rows: int
    oldest: int
    blocks: dict[int, Block]


NO_MEMORY = Memory(0, 0, {})


@cache
def _block(width: int) -> struct.Struct:
    return struct.Struct(">II" + "qqQI" * width)


def pack_blocks(blocks: Mapping[int, Block]) -> bytes:
    """Bytes of blocks; equal blocks give equal bytes."""
    return b"".join([_pack(number, block) for number, block in sorted(blocks.items())])


def unpack_blocks(packed: bytes, width: int) -> dict[int, Block]:
    """Inverse of `pack_blocks`. width: numbers of a row."""
    if not packed:
        return {}
    numbers, rows, *columns = zip(*_block(width).iter_unpack(packed), strict=True)
    if not width:
        return {number: Block(of, (), (), ()) for number, of in zip(numbers, rows, strict=True)}
    sums, counts = zip(*columns[::4], strict=True), zip(*columns[3::4], strict=True)
    wide = [
        [high << 64 | low for high, low in zip(highs, lows, strict=True)]
        for highs, lows in zip(columns[1::4], columns[2::4], strict=True)
    ]
    return dict(zip(numbers, map(Block, rows, sums, zip(*wide, strict=True), counts), strict=True))


def fixed_total(number: float) -> int:
    """A finite number as it is added to a total."""
    return round(max(-TOTAL_LIMIT, min(TOTAL_LIMIT, number)) * TOTAL_SCALE)


def fixed_totals(numbers: NDArray[np.floating]) -> NDArray[np.int64]:
    """`fixed_total` of many, in their shape."""
    limited = np.clip(numbers.astype(np.float64), -TOTAL_LIMIT, TOTAL_LIMIT)
    return np.rint(limited * TOTAL_SCALE).astype(np.int64)


def shift_blocks(packed: bytes, width: int, changes: Mapping[int, Sequence[int]]) -> bytes:
    """Add to blocks. Costs what is touched, not how many blocks there are.

    changes: by a block's number [rows, then per number sum, total, count]; may be negative.
    """
    layout = _block(width)
    size = layout.size
    for number, change in changes.items():
        key = number.to_bytes(4, "big")
        at = _place(packed, size, key)
        values = [number, 0, *(0, 0, 0, 0) * width]
        end = at
        if packed[at : at + 4] == key:
            values = list(layout.unpack_from(packed, at))
            end += size
        values[1] += change[0]
        for i in range(width):
            log, total, count = change[1 + 3 * i : 4 + 3 * i]
            to = 2 + 4 * i
            total += values[to + 1] << 64 | values[to + 2]
            values[to] += log
            values[to + 1], values[to + 2] = total >> 64, total & _LOW
            values[to + 3] += count
        packed = packed[:at] + (layout.pack(*values) if values[1] else b"") + packed[end:]
    return packed


def _place(packed: bytes, size: int, key: bytes) -> int:
    """Where the block with this number lies, or would."""
    return size * bisect_left(range(len(packed) // size), key, key=lambda i: packed[i * size : i * size + 4])


def _pack(number: int, block: Block) -> bytes:
    values: list[int] = []
    for log, total, count in zip(block.sums, block.totals, block.counts, strict=True):
        values += log, total >> 64, total & _LOW, count
    return _block(len(block.sums)).pack(number, block.rows, *values)


_LOW = (1 << 64) - 1
