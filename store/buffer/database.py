"""The RocksDB database under a token buffer: opening, identity check, reads and closing."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import rocksdict

from store.base import disk, fault
from store.base.errors import StateError
from store.base.files import write_atomic
from store.buffer.resources import BufferResources
from store.window import layout
from store.window.rows import prefix_end


class _OnDatabase(Protocol):
    _db: BufferDatabase


_S = TypeVar("_S", bound=_OnDatabase)
_P = ParamSpec("_P")
_R = TypeVar("_R")

_PAGE = 1000
"""Entries taken from an iterator at a time."""
DAMAGED = "DAMAGED"
"""File in a database's directory: it is not to be opened any more. Says why."""
_LOCKED = ("While lock file", "lock hold by")
_MISSING = "No such file or directory"


def is_damage(exc: BaseException) -> bool:
    """Whether it says that what is stored cannot be what was written."""
    if isinstance(exc, StateError):
        return exc.code == "state_damaged"
    return type(exc) is Exception and "Corruption" in str(exc)  # rocksdict raises plain Exception


def walk(family: Any, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All entries whose key has this prefix (empty = all), in key order.

    Raises:
        Exception: a block is damaged. rocksdict's own iterators end there without a word (0.3.29).
    """
    return walk_range(family, prefix, prefix_end(prefix) if prefix else b"")


def walk_range(family: Any, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All entries with keys in [start, end), in key order; end empty = all. Raises as `walk`."""
    options = rocksdict.ReadOptions()  # must outlive the iterator: the bound is not copied (rocksdict 0.3.29)
    if end:
        options.set_iterate_upper_bound(end)
    entries = family.items(from_key=start, read_opt=options)
    after = start
    while page := list(islice(entries, _PAGE)):
        yield from page
        after = page[-1][0] + b"\x00"
    _check_end(family, after, options)


def set_aside(path: Path) -> Path:
    """Move a damaged database out of the way, in place of one moved earlier; returns where it is."""
    aside = path.with_name(f"{path.name}.damaged")
    if aside.exists():
        shutil.rmtree(aside)
    path.rename(aside)
    return aside


def _check_end(family: Any, after: bytes, options: Any) -> None:
    cursor = family.iter(options)
    cursor.seek(after)
    if not cursor.valid():
        cursor.status()


def _damaged(path: Path, why: str) -> StateError:
    return StateError(
        f"the token buffer at {path} is damaged: {why}",
        action="nothing: at the next start it is set aside and restored from `tokens`; look after the disk",
        code="state_damaged",
    )


class BufferDatabase:
    """Handles of one database. Live handles and iterators hold its lock: `close` drops them all."""

    def __init__(self, path: Path, resources: BufferResources) -> None:
        self.path = path
        self._resources = resources
        self._write_options = resources.write_options
        self._unlogged = rocksdict.WriteOptions()
        self._unlogged.disable_wal = True
        self._unsettled = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise disk.refused(exc, path) or exc from exc
        self._open(bulk=False)
        if (path / DAMAGED).exists():  # nobody else has it open: it may be set aside
            self.close()
            raise _damaged(path, (path / DAMAGED).read_text(encoding="utf-8"))

    def _open(self, *, bulk: bool) -> None:
        try:
            self.db = _open(self.path, self._resources, bulk=bulk)
        except Exception:  # rocksdict raises plain Exception
            gc.collect()  # an iterator that an abandoned generator still holds keeps the lock of a closed database
            try:
                self.db = _open(self.path, self._resources, bulk=bulk)
            except Exception as exc:
                if is_damage(exc) or _MISSING in str(exc):
                    raise _damaged(self.path, str(exc)) from exc
                locked = any(text in str(exc) for text in _LOCKED)
                if not locked and (refused := disk.refused(exc, self.path)) is not None:
                    raise refused from exc
                raise StateError(
                    f"the token buffer at {self.path} cannot be opened: {exc}",
                    action="stop the other process that uses it" if locked else "check the disk: rights, space",
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
            self.put_meta({key: text.encode() for key, text in expected.items()})
            return
        if upgraded := stored.get(layout.M_FORMAT) == layout.FORMAT_BEFORE.encode():  # it is read as it is
            stored[layout.M_FORMAT] = layout.FORMAT.encode()
        for key, text in expected.items():
            found = (stored[key] or b"").decode()
            if found != text:
                name = key.decode()
                action = {
                    layout.M_FORMAT: f"start the version that wrote it, or remove {self.path}: it is restored from the "
                    "`tokens` topic",
                    layout.M_IDENTITY: "another broker has taken the old one's place: point kafka.bootstrap_servers at "
                    f"the old broker; or remove {self.path.parent}, which is built anew from this broker's topics",
                    layout.M_ROLE: "a processor and a worker cannot share a directory: give each its own",
                }.get(
                    key,
                    "set the text encoder back (the version of anchorstream that wrote it); or " + layout.BEGIN_ANEW,
                )
                raise StateError(
                    f"the token buffer at {self.path} was written with {name} {found!r}, not {text!r}",
                    action=action,
                    code="broker_replaced" if key == layout.M_IDENTITY else "state_mismatch",
                )
        if self.meta.get(layout.M_RESTORING) is not None:
            raise StateError(
                f"an older version was restoring the token buffer at {self.path} when it ended",
                action=f"remove {self.path}; it is restored from the `tokens` topic",
                code="state_mismatch",
            )
        if upgraded:
            self.put_meta({layout.M_FORMAT: layout.FORMAT.encode()})

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

    def put_meta(self, values: Mapping[bytes, bytes | None]) -> None:
        """Write to `meta`, all or nothing; None = deleted."""
        batch = self.batch()
        for key, value in values.items():
            if value is None:
                batch.delete(key, self.h_meta)
            else:
                batch.put(key, value, self.h_meta)
        self.write(batch)

    def get_int(self, key: bytes, default: int) -> int:
        """Integer from `meta`."""
        value = self.meta.get(key)
        return default if value is None else layout.unpack_int(value)

    def judge(self, exc: BaseException) -> BaseException:
        """What to raise for an exception. If it tells of damage the database is marked: whoever opens it next knows."""
        if not is_damage(exc):
            return disk.refused(exc, self.path) or exc
        try:
            if not (self.path / DAMAGED).exists():
                write_atomic(self.path / DAMAGED, exc.detail if isinstance(exc, StateError) else str(exc))
        except OSError as unwritten:
            exc.add_note(f"and {self.path / DAMAGED} cannot be written: {unwritten}")
        return exc if isinstance(exc, StateError) else _damaged(self.path, str(exc))

    def items(self, family: Any, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All entries of a family whose key has this prefix (empty = all), in key order. Exhaust it or drop it.

        Raises:
            StateError: a part of them cannot be read.
        """
        return self.range(family, prefix, prefix_end(prefix) if prefix else b"")

    def range(self, family: Any, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The same of all with keys in [start, end); end empty = all."""
        try:
            yield from walk_range(family, start, end)
        except Exception as exc:
            raise self.judge(exc) from exc

    def keys(self, family: Any, start: bytes, limit: int) -> list[bytes]:
        """Up to `limit` keys of a family from `start` on; leaves no iterator open.

        Raises:
            StateError: a part of them cannot be read.
        """
        out = list(islice(family.keys(from_key=start), limit))
        if len(out) < limit:
            try:
                _check_end(family, out[-1] + b"\x00" if out else start, rocksdict.ReadOptions())
            except Exception as exc:
                raise self.judge(exc) from exc
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
        """Flush the WAL and let the lock go. Closing twice is fine.

        Raises:
            StateError: the disk does not take it; it is closed all the same, at a position that is durable.
        """
        if self.db is None:
            return
        try:
            self.settle()
            self.db.flush_wal(sync=True)
            for name in layout.FLUSH_ORDER:  # closing a family flushes it
                getattr(self, name).close()
            self.db.close()
        except Exception as exc:
            raise self.judge(exc) from exc
        finally:
            for name in layout.FLUSH_ORDER:
                setattr(self, name, None)
                setattr(self, f"h_{name}", None)
            self.db = None


def judged(method: Callable[Concatenate[_S, _P], _R]) -> Callable[Concatenate[_S, _P], _R]:
    """Of something on a database: damage that the method meets marks it, and is raised as a StateError."""

    @wraps(method)
    def call(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return method(self, *args, **kwargs)
        except Exception as exc:
            found = self._db.judge(exc)
            if found is exc:
                raise
            raise found from exc

    return call


def _open(path: Path, resources: BufferResources, *, bulk: bool) -> Any:
    options = resources.database_options(bulk=bulk)
    return rocksdict.Rdict(str(path), options, column_families=resources.family_options(bulk=bulk))
