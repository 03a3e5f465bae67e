"""A token buffer's database as one batch sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from store.base.settings import ModalitySettings
from store.buffer.database import BufferDatabase
from store.window.rows import unpack_summary
from store.window.summary import Totals
from store.window.user_window import summary_by_scan
from store.window.window_rules import WindowRules


class BatchReader:
    """Reads of one batch. Holds an iterator, so drop it when the batch is prepared."""

    def __init__(self, database: BufferDatabase, rules: WindowRules) -> None:
        self._db = database
        self._rules = rules
        self._iter: Any = None

    def summaries(self, prefixes: Sequence[bytes]) -> list[bytes | None]:
        """Summary rows by (user, modality) prefix."""
        found: list[bytes | None] = self._db.summaries.get([prefix + b"\x00" for prefix in prefixes])
        return found

    def ids(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Entries of the id index."""
        found: list[bytes | None] = self._db.ids.get(list(keys))
        return found

    def scan(self, prefix: bytes, start: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to `limit` rows with this prefix, from prefix + start on; keys without the prefix."""
        cursor = self._iter
        if cursor is None:
            cursor = self._iter = self._db.rows.iter()
        cursor.seek(prefix + start)
        out: list[tuple[bytes, bytes]] = []
        cut = len(prefix)
        while cursor.valid():
            key = cursor.key()
            if not key.startswith(prefix):
                break
            out.append((key[cut:], cursor.value()))
            if len(out) == limit:
                break
            cursor.next()
        else:
            cursor.status()  # raises where a block is damaged
        return out

    def expiry(self, start: bytes, end: bytes, limit: int) -> list[bytes]:
        """Keys of the expiry index in [start, end)."""
        return [key for key in self._db.keys(self._db.expiry, start, limit) if key < end]

    def totals_by_scan(self, prefix: bytes, modality: ModalitySettings, packed: bytes) -> Totals:
        """Totals of a window whose summary row was written under another configuration."""
        rows = [(key[len(prefix) :], value) for key, value in self._db.items(self._db.rows, prefix)]
        return summary_by_scan(rows, unpack_summary(packed), modality, self._rules.dim)
