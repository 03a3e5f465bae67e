"""What a token buffer holds of a user, for people."""

from __future__ import annotations

from typing import Any

from store.buffer.token_buffer import TokenBuffer
from store.window.memory import BLOCK_MS, TOTAL_SCALE, Memory
from store.window.user_window import ModalityWindow


def inspect(buffer: TokenBuffer, user_id: str) -> dict[str, Any]:
    """JSON-able, without vectors. `expires_below`: older events leave the window."""
    window = buffer.window(user_id)
    mark = next((user.mark for user in buffer.dirty if user.user_id == user_id), None)
    return {
        "user_id": user_id,
        "newest_event": window.newest_event,
        "covers": window.covers,
        "ingested_at": window.ingested_at,
        "stream_time": buffer.stream_time,
        "source_offset": buffer.source_offset,
        "log_offset": buffer.log_offset,
        "dirty": None if mark is None else mark._asdict(),
        "modalities": {
            name: _modality(m) | {"expires_below": buffer.rules.floor(name, buffer.stream_time)}
            for name, m in window.modalities.items()
        },
    }


def _modality(window: ModalityWindow) -> dict[str, Any]:
    summary = window.summary
    return {
        "rows": summary.rows,
        "oldest": summary.oldest,
        "newest": summary.newest,
        "covers": summary.covers,
        "events": [
            {"ts": ts, "name": event, "numbers": [None if x != x else x for x in numbers]}
            for ts, event, numbers in zip(window.ts.tolist(), window.names, window.numbers.tolist(), strict=True)
        ],
        "memory": _memory(summary.memory),
    }


def _memory(memory: Memory) -> dict[str, Any]:
    """totals: of the numbers' values. from: where a block of 28 days begins, ms."""
    return {
        "rows": memory.rows,
        "oldest": memory.oldest,
        "blocks": [
            {
                "from": number * BLOCK_MS,
                "rows": block.rows,
                "totals": [total / TOTAL_SCALE for total in block.totals],
                "counts": list(block.counts),
            }
            for number, block in memory.blocks.items()
        ],
    }
