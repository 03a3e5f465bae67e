"""The RocksDB database under a token buffer: opening, identity check, reads and closing."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import rocksdict

from store.base import fault
from store.base.errors import StateError
from store.buffer import layout
from store.buffer.resources import BufferResources
from store.buffer.rows import prefix_end


class BufferDatabase:
    """Handles of one database. Live handles and iterators hold its lock: `close` drops them all."""

    def __init__(self, path: Path, resources: BufferResources) -> None:
        self.path = path
        self._resources = resources
        self._write_options = resources.write_options
        self._unlogged = rocksdict.WriteOptions()
        self._unlogged.disable_wal = True
        self._unsettled = False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open(bulk=False)

    def _open(self, *, bulk: bool) -> None:
        try:
            self.db = _open(self.path, self._resources, bulk=bulk)
        except Exception:  # rocksdict raises plain Exception
            gc.collect()  # an iterator that an abandoned generator still holds keeps the lock of a closed database
            try:
                self.db = _open(self.path, self._resources, bulk=bulk)
            except Exception as exc:
                locked = "lock" in str(exc).lower()
                raise StateError(
                    f"the token buffer at {self.path} cannot be opened: {exc}",
                    action="stop the other process that uses it"
                    if locked
                    else "remove the directory; it will be restored from the `tokens` topic",
                    code="state_locked" if locked else "state_unreadable",
                ) from exc
        self.rows, self.summaries, self.ids, self.expiry, self.dirty, self.meta = (
            self.db.get_column_family(name) for name in layout.FAMILIES
        )
        self.h_rows, self.h_summaries, self.h_ids, self.h_expiry, self.h_dirty, self.h_meta = (
            self.db.get_column_family_handle(name) for name in layout.FAMILIES
        )

    def reopen(self, *, bulk: bool) -> None:
        """Open it anew, for a bulk load (see `BufferResources.family_options`) or for everything else.

        Raises:
            StateError: it cannot be opened any more; it stays closed.
        """
        self.close()
        self._open(bulk=bulk)

    def check(self, expected: dict[bytes, str]) -> None:
        """Compare what the database was made for with what is asked of it; a new one takes it over.

        Raises:
            StateError: it belongs to another format, encoder, dimension, broker or role. Nothing was changed.
        """
        stored = {key: self.meta.get(key) for key in expected}
        if all(value is None for value in stored.values()):
            batch = self.batch()
            for key, text in expected.items():
                batch.put(key, text.encode(), self.h_meta)
            self.write(batch)
            return
        for key, text in expected.items():
            found = (stored[key] or b"").decode()
            if found != text:
                name = key.decode()
                action = {
                    layout.M_FORMAT: "start the version that wrote it, or remove the directory to restore it from the "
                    "`tokens` topic",
                    layout.M_IDENTITY: "another broker has taken the old one's place: remove the data directory, or "
                    "point kafka.bootstrap_servers at the old broker",
                    layout.M_ROLE: "a processor and a worker cannot share a directory: give each its own",
                }.get(key, "set the text encoder back, or remove the data directory and replay the raw events")
                raise StateError(
                    f"the token buffer at {self.path} was written with {name} {found!r}, not {text!r}",
                    action=action,
                    code="broker_replaced" if key == layout.M_IDENTITY else "state_mismatch",
                )

    def batch(self) -> Any:
        """An empty WriteBatch."""
        return rocksdict.WriteBatch(raw_mode=True)

    def write(self, batch: Any, *, logged: bool = True) -> None:
        """Write a WriteBatch, all of it or nothing.

        logged: durable on return. Else it is written without the WAL, at twice the speed; a crash may then take the
        database back to before it, never to a part of it. The next logged write makes it durable first.
        """
        if logged:
            self.settle()
            self.db.write(batch, self._write_options)
        else:
            self._unsettled = True
            self.db.write(batch, self._unlogged)

    def settle(self) -> None:
        """Make unlogged writes durable, family by family: rocksdict flushes one at a time, and the process may die
        between two."""
        if self._unsettled:
            for name in layout.FLUSH_ORDER:
                fault.point("buffer.flush")
                getattr(self, name).flush()
            fault.point("buffer.flush")
            self._unsettled = False

    def get_int(self, key: bytes, default: int) -> int:
        """Integer from `meta`."""
        value = self.meta.get(key)
        return default if value is None else layout.unpack_int(value)

    def items(self, family: Any, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All entries of a family whose key has this prefix (empty = all), in key order. Exhaust it or drop it."""
        options = rocksdict.ReadOptions()  # must outlive the iterator: the bound is not copied (rocksdict 0.3.29)
        if prefix:
            options.set_iterate_upper_bound(prefix_end(prefix))
        yield from family.items(from_key=prefix, read_opt=options)

    def keys(self, family: Any, start: bytes, limit: int) -> list[bytes]:
        """Up to `limit` keys of a family from `start` on; leaves no iterator open."""
        out: list[bytes] = []
        for key in family.keys(from_key=start):
            out.append(key)
            if len(out) == limit:
                break
        return out

    def compact(self) -> None:
        """Flush and compact every family."""
        for name in layout.FAMILIES:
            family = getattr(self, name)
            family.flush()
            family.compact_range(None, None)

    def disk_bytes(self) -> int:
        """Bytes of all live table files."""
        return sum(int(getattr(self, name).property_int_value("rocksdb.total-sst-files-size") or 0)
                   for name in layout.FAMILIES)  # fmt: skip

    def checkpoint(self, path: Path) -> None:
        """A consistent copy by hard links; `path` must not exist."""
        self.settle()
        rocksdict.Checkpoint(self.db).create_checkpoint(str(path))

    def close(self) -> None:
        """Flush the WAL and let the lock go. Closing twice is fine."""
        if self.db is None:
            return
        self.settle()
        self.db.flush_wal(sync=True)
        for name in layout.FLUSH_ORDER:  # closing a family flushes it
            getattr(self, name).close()
            setattr(self, name, None)
            setattr(self, f"h_{name}", None)
        self.db.close()
        self.db = None


def _open(path: Path, resources: BufferResources, *, bulk: bool) -> Any:
    options = resources.database_options(bulk=bulk)
    return rocksdict.Rdict(str(path), options, column_families=resources.family_options(bulk=bulk))


class Cursor:
    """Reads of one batch. Holds an iterator, so drop it when the batch is prepared."""

    def __init__(self, database: BufferDatabase) -> None:
        self._db = database
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
        return out

    def expiry(self, start: bytes, end: bytes, limit: int) -> list[bytes]:
        """Keys of the expiry index in [start, end)."""
        return [key for key in self._db.keys(self._db.expiry, start, limit) if key < end]
