"""A token buffer on disk, read only, while its owner may be writing it: for `verify` and for people.

A view is the state at the instant it was opened. It takes no lock and writes nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import rocksdict

from store.account.account import Account
from store.base.errors import StateError
from store.base.settings import ModalitySettings
from store.buffer.database import is_damage, walk_range
from store.window import layout
from store.window.layout import Schema, split_prefix
from store.window.rows import Summary, prefix_end, summary_key, user_prefix
from store.window.user_window import UserWindow, read_user, summary_by_scan


class BufferView:
    """One partition, read only. A context manager: an open view keeps deleted files on disk."""

    def __init__(self, path: Path, modalities: Mapping[str, ModalitySettings]) -> None:
        """Open what is at `path`.

        Raises:
            StateError: there is no readable token buffer, or it is of modalities of another kind or with other numbers.
        """
        self.path = path
        self._modalities = modalities
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(False)
        families = {name: rocksdict.Options(raw_mode=True) for name in layout.FAMILIES}
        if not (path / "CURRENT").exists():
            raise StateError(f"there is no token buffer at {path}", action="check store.data_dir")
        try:
            self._db: Any = rocksdict.Rdict(
                str(path), options, column_families=families, access_type=rocksdict.AccessType.read_only(False)
            )
        except Exception as exc:  # rocksdict raises plain Exception
            raise StateError(
                f"the token buffer at {path} cannot be read: {exc}",
                action="if its owner is just starting or stopping, try again",
                code="state_unreadable",
            ) from exc
        self._rows, self._summaries, self._dirty, self._meta = (
            self._db.get_column_family(name) for name in (layout.ROWS, layout.SUMMARIES, layout.DIRTY, layout.META)
        )
        self.identity = self._text(layout.M_IDENTITY)
        """Of the broker it belongs to."""
        self.encoder_id = self._text(layout.M_ENCODER)
        self.dim = int(self._text(layout.M_DIM) or 0)
        if (schema := Schema.unpack(self._meta.get(layout.M_SCHEMA))) is not None:
            schema.check(Schema.of(self.encoder_id, self.dim, modalities), f"the token buffer at {path}")
        self.format = self._text(layout.M_FORMAT)
        """Of layout and rows."""
        self.source_offset = self._int(layout.M_SOURCE_OFFSET, -1)
        """Last offset of `events` applied."""
        self.log_offset = self._int(layout.M_LOG_OFFSET, 0)
        self.stream_time = self._int(layout.M_STREAM_TIME, 0)
        self.account = Account.unpack(self._meta.get(layout.M_ACCOUNT))
        """What became of the events, each counted once."""

    def users(self) -> Iterator[str]:
        """Every user with a summary, in key order."""
        last = None
        for key, _ in self._items(self._summaries, b""):
            user = split_prefix(key[:-1])[0]
            if user != last:
                last = user
                yield user

    def window(self, user_id: str) -> UserWindow:
        """All windows of a user, as the owner would read them."""
        summaries = self._items(self._summaries, user_prefix(user_id))
        return read_user(user_id, summaries, partial(self._range, self._rows), self._modalities, self.dim)

    def window_by_scan(self, user_id: str) -> UserWindow:
        """The same with every summary recomputed from its rows; equal to `window`, or the buffer is wrong.

        What rows cannot tell (`covers`, ingestion time, the newest event ever) is taken from the stored summary.
        """
        stored = self.window(user_id)
        windows = {
            name: replace(window, summary=self._scan(user_id, name, window.summary))
            for name, window in stored.modalities.items()
        }
        return UserWindow(user_id, windows)

    def dirty_count(self) -> int:
        """Users waiting for a refresh (a replica's)."""
        return sum(1 for _ in self._dirty.keys())  # noqa: SIM118 (not a dict)

    def close(self) -> None:
        """Let the files go."""
        self._rows = self._summaries = self._dirty = self._meta = None
        self._db.close()
        self._db = None
        gc.collect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _scan(self, user_id: str, modality: str, stored: Summary) -> Summary:
        prefix = summary_key(user_id, modality)[:-1]
        rows = ((key[len(prefix) :], value) for key, value in self._items(self._rows, prefix))
        return summary_by_scan(rows, stored, self._modalities[modality], self.dim).freeze()

    def _items(self, family: Any, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._range(family, prefix, prefix_end(prefix) if prefix else b"")

    def _range(self, family: Any, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        try:
            yield from walk_range(family, start, end)
        except Exception as exc:
            if not is_damage(exc):
                raise
            raise StateError(
                f"the token buffer at {self.path} is damaged: {exc}",
                action="restart its owner: it sets the buffer aside and restores it from `tokens`",
                code="state_damaged",
            ) from exc

    def _text(self, key: bytes) -> str:
        return (self._meta.get(key) or b"").decode()

    def _int(self, key: bytes, default: int) -> int:
        value = self._meta.get(key)
        return default if value is None else layout.unpack_int(value)


def find(state: Path, identity: str | None = None) -> dict[int, Path]:
    """Buffers under `<data_dir>/processor` or `<data_dir>/worker` by partition; with `identity`, of that broker only.

    Where a partition has moved between instances, the copy that has come furthest counts.
    """
    found: dict[int, Path] = {}
    reached: dict[int, tuple[int, int]] = {}
    for path in sorted(state.glob("*/*")):
        if not path.name.isdecimal() or not (path / "CURRENT").exists():
            continue
        partition = int(path.name)
        with BufferView(path, {}) as view:
            mark = (view.log_offset, view.source_offset)
            if identity is not None and view.identity != identity:
                continue
        if partition not in found or mark > reached[partition]:
            found[partition], reached[partition] = path, mark
    return found
