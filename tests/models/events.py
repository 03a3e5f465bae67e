"""Small modalities and seeded events for tests of the token buffer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from store.base.settings import ModalityKind, ModalitySettings
from store.buffer.resources import BufferResources
from store.buffer.token_buffer import TokenBuffer
from store.window.encoded_event import EncodedEvent, EncodedField

Open = Callable[..., TokenBuffer]
"""Name of a folder, and what differs from `open_buffer` → a buffer there; the fixture `opened` closes it."""
DIM = 4
WINDOW_MS = 100
MEMORY_MS = 250
GRANULARITY_MS = 10
MIB = 1024 * 1024


def days(ms: float) -> float:
    """Milliseconds as the `window_days` that come out as exactly that."""
    return (ms + 0.5) / 86_400_000


def modalities(**changes: Any) -> dict[str, ModalitySettings]:
    """Two event modalities with different windows, one of them with a memory, and a tabular one."""
    made = {
        "a": ModalitySettings(
            topic="a", max_events=3, window_days=days(WINDOW_MS), memory_days=days(MEMORY_MS), numbers=("x", "y")
        ),
        "b": ModalitySettings(topic="b", max_events=5, window_days=days(3 * WINDOW_MS), memory_days=0),
        "t": ModalitySettings(topic="t", kind=ModalityKind.TABULAR, max_events=3, window_days=days(2 * WINDOW_MS)),
    }
    return {name: modality.model_copy(update=changes) for name, modality in made.items()}


def resources() -> BufferResources:
    return BufferResources.create(block_cache_bytes=8 * MIB, write_buffer_bytes=4 * MIB)


def open_buffer(path: Path, shared: BufferResources, **changes: Any) -> TokenBuffer:
    options: dict[str, Any] = {
        "modalities": modalities(),
        "encoder_id": "enc",
        "dim": DIM,
        "identity": "kafka:x",
        "expiry_granularity_ms": GRANULARITY_MS,
        "resources": shared,
    }
    return TokenBuffer.open(path, **{**options, **changes})


def _seed(*parts: object) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big"))


def vector(*parts: object) -> np.ndarray[Any, np.dtype[np.float16]]:
    """A vector on the grid of multiples of 2**-14."""
    return (_seed(*parts).integers(-2048, 2049, DIM) / 16384).astype(np.float16)


def event(
    user: str,
    modality: str,
    ts: int,
    event_id: str,
    *,
    fields: dict[str, bool] | None = None,
    content: int = 0,
    offset: int = 0,
) -> EncodedEvent:
    """An event whose content follows from its identity and `content`.

    fields: tabular; name → whether it has a value (else null).
    """
    rng = _seed(modality, event_id, content)
    digest = int(rng.integers(1, 2**63))
    numbers = np.array([rng.normal() * 100, np.nan if rng.random() < 0.3 else 1.0], np.float32)
    made = None
    if fields is not None:
        made = tuple(
            EncodedField(
                name, digest + i, numbers[:1] if value else numbers[:0],
                vector(name, event_id, content) if value else np.zeros(0, np.float16),
            )
            for i, (name, value) in enumerate(fields.items())
        )  # fmt: skip
    return EncodedEvent(
        user, modality, ts, event_id, digest,
        numbers if modality == "a" and made is None else numbers[:0],
        vector(event_id, content) if made is None else np.zeros(0, np.float16),
        made, f"topic-{modality}:{offset % 2}", offset, 1000 + offset,
    )  # fmt: skip


class Log:
    """The `tokens` topic as a list: (key, value, sweep). marker: the newest of its owner."""

    def __init__(self) -> None:
        self.records: list[tuple[bytes, bytes | None, bool]] = []
        self.marker: bytes | None = None

    def append(self, rows: list[tuple[bytes, bytes | None]], *, sweep: bool) -> None:
        self.records += [(key, value, sweep) for key, value in rows]

    def __len__(self) -> int:
        return len(self.records)

    def replay(self, buffer: TokenBuffer, *, chunk: int = 7, mark_dirty: bool = False, upto: int | None = None) -> None:
        """Apply everything from the buffer's position on (to `upto`, exclusive), in small pieces."""
        at = buffer.log_offset
        end = len(self.records) if upto is None else upto
        while at < end:
            part = self.records[at : min(at + chunk, end)]
            sweep = part[0][2]
            part = [record for i, record in enumerate(part) if all(r[2] is sweep for r in part[: i + 1])]
            at += len(part)
            buffer.apply_log([record[:2] for record in part], next_offset=at, mark_dirty=mark_dirty, sweep=sweep)

    def restore(self, buffer: TokenBuffer) -> None:
        """As a lost disk is restored: `marker` came before the rows of its batch."""
        self.replay(buffer)
        buffer.apply_log([], next_offset=len(self), marker=self.marker)

    def write(
        self, buffer: TokenBuffer, events: list[EncodedEvent], source_offset: int, *, most: int = 10_000
    ) -> list[str]:
        """Steps 3 to 5 of the commit protocol, then empty batches until the sweep has caught up, `most` in all."""
        outcomes: list[str] = []
        for _ in range(most):
            changes = buffer.prepare(events, source_offset=source_offset)
            outcomes += [name for name, n in changes.outcomes._asdict().items() for _ in range(n)]
            if not events and not changes.sweep_rows and not changes.sweep_left:
                return outcomes
            self.append(changes.rows, sweep=False)
            self.append(changes.sweep_rows, sweep=True)
            self.marker = buffer.marker(changes.account)
            buffer.commit(changes, log_offset=len(self))
            events = []
        raise AssertionError("the sweep does not end")
