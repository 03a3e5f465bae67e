"""How far behind ingest was when it sent a pack: a header of `events`, only while it is. Pure."""

from __future__ import annotations

from collections.abc import Sequence

HEADER = "behind"
LEAST_MS = 1000
"""Less is not worth a header."""


def header(behind_ms: float) -> Sequence[tuple[str, bytes | None]]:
    """What to send along."""
    return [(HEADER, b"%d" % behind_ms)] if behind_ms >= LEAST_MS else ()


def read(value: bytes | None) -> int:
    """ms; 0 where nothing is said."""
    return int(value) if value is not None and value.isdigit() else 0
