"""Bringing memories up to date: which rows come to them and which go, of many windows at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from store.window.memory import BLOCK_MS, fixed_total, fixed_totals, shift_blocks
from store.window.summary import Totals, signed_log, signed_logs

_FEW = 16
"""Rows up to which one by one is no dearer than all at once."""


class LightRow(NamedTuple):
    """ts: event time, ms. numbers: as they are packed, little-endian float32."""

    ts: int
    numbers: bytes


class Remembering(NamedTuple):
    """Of one window: rows that come to its memory, and rows that leave it."""

    totals: Totals
    remembered: Sequence[LightRow]
    forgotten: Sequence[LightRow]


def remember(changes: Sequence[Remembering]) -> None:
    """Bring the blocks of many memories up to date."""
    changes = [change for change in changes if change.remembered or change.forgotten]
    packed = b"".join([row.numbers for change in changes for rows in change[1:] for row in rows])
    numbers = _fixed(np.frombuffer(packed, "<f4"))
    at = 0
    for totals, remembered, forgotten in changes:
        width = len(totals.sums)
        blocks: dict[int, list[int]] = {}
        for rows, sign in ((remembered, 1), (forgotten, -1)):
            for row in rows:
                block = blocks.get(number := row.ts // BLOCK_MS)
                if block is None:
                    block = blocks[number] = [0] * (1 + 3 * width)
                block[0] += sign
                end = at + (len(row.numbers) >> 2)
                for i, fixed in enumerate(numbers[at : min(end, at + width)]):
                    if fixed is not None:
                        block[1 + 3 * i] += sign * fixed[0]
                        block[2 + 3 * i] += sign * fixed[1]
                        block[3 + 3 * i] += sign
                at = end
        totals.blocks = shift_blocks(totals.blocks, width, blocks)


def _fixed(numbers: np.ndarray[tuple[int], np.dtype[np.float32]]) -> Sequence[tuple[int, int] | None]:
    """(signed log, total) in fixed point of each; None where there is no number."""
    if len(numbers) <= _FEW:
        return [None if (log := signed_log(x)) is None else (log, fixed_total(x)) for x in numbers.tolist()]
    logs, present = signed_logs(numbers)
    totals = fixed_totals(np.where(present, numbers, 0.0))
    pairs = zip(logs.tolist(), totals.tolist(), strict=True)
    return [pair if there else None for pair, there in zip(pairs, present.tolist(), strict=True)]
