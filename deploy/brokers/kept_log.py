"""What an embedded broker was given, in one file: messages in the order in which they came.

    <magic> then per message: length (4 bytes, big-endian), CRC-32 of what follows (4), msgpack
    [topic, partition, timestamp ms, key, value, [[header, value], …]]

A process that dies while it writes leaves half a message at the end, which is cut off when the file is opened again;
any other damage is an error.
"""

from __future__ import annotations

import os
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple, Self

import msgpack

from store.base.errors import StateError
from store.base.file_lock import is_in_place
from store.base.files import read_json, write_json

MAGIC = b"ANCHKEPT1\n"
_FRAME = Struct(">II")
_MAX_BYTES = 2 << 20
"""Of one message: more than a broker takes, so half a one at the end is less."""
_ID_FILE = "history.json"
_LOG_FILE = "messages.log"


class KeptMessage(NamedTuple):
    """timestamp: ms, as its sender or the broker set it."""

    topic: str
    partition: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


class KeptLog:
    """The log of one data directory. One process at a time; `append` and `sync` are for one thread.

    Raises:
        StateError: the file is another's, or damaged before its end.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / _LOG_FILE
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (found := read_json(directory / _ID_FILE)) is None:
            found = {"history": uuid.uuid4().hex}
            write_json(directory / _ID_FILE, found)
        self.history = str(found["history"])
        """Names what is kept, over all broker processes that were given it."""
        self.count = 0
        """Messages in the file."""
        self._file = self.path.open("a+b")
        self._end = self._whole()
        self._file.truncate(self._end)
        if not self._end:
            self._file.write(MAGIC)
            self._end = len(MAGIC)
            self.sync()

    def __iter__(self) -> Iterator[KeptMessage]:
        """Messages that were there when the log was opened, or appended and flushed since the iteration began."""
        with self.path.open("rb") as file:
            file.seek(len(MAGIC))
            end = self._end
            while file.tell() < end:
                payload = _next(file)
                if payload is None:
                    raise self._damaged(file.tell())
                topic, partition, timestamp, key, value, headers = msgpack.unpackb(payload)
                yield KeptMessage(topic, partition, timestamp, key, value, tuple((n, v) for n, v in headers))

    def append(self, message: KeptMessage) -> None:
        """Add a message; in the file after `flush`."""
        payload: bytes = msgpack.packb(message)
        self._file.write(_FRAME.pack(len(payload), zlib.crc32(payload)) + payload)
        self._end += _FRAME.size + len(payload)
        self.count += 1

    def flush(self) -> None:
        """What was appended survives this process."""
        self._file.flush()

    def sync(self) -> None:
        """What was appended survives this machine. Raises StateError: the file was removed or replaced meanwhile."""
        self._file.flush()
        if not is_in_place(self._file, self.path):
            raise StateError(
                f"{self.path} was removed, moved or replaced while the broker wrote it",
                action="what came since is not kept: start `anchorstream up` again and replay its source",
                code="state_removed",
            )
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _whole(self) -> int:
        """Where the last whole message ends."""
        file = self._file
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        begin = file.read(len(MAGIC))
        if begin != MAGIC and MAGIC.startswith(begin):
            return 0
        if begin != MAGIC:
            raise StateError(
                f"{self.path} is no log of an embedded broker of this version",
                action="move it away; it is left as it is",
            )
        end = len(MAGIC)
        while _next(file) is not None:
            end = file.tell()
            self.count += 1
        if end < size and not self._torn(end, size):
            raise self._damaged(end)
        return end

    def _torn(self, at: int, size: int) -> bool:
        """Whether what follows is half a message, or space that the file system has never filled."""
        self._file.seek(at)
        rest = self._file.read(_MAX_BYTES)
        if len(rest) >= _FRAME.size and any(rest):
            length, _ = _FRAME.unpack(rest[: _FRAME.size])
            return bool(0 < length <= _MAX_BYTES and size < at + _FRAME.size + length)
        while rest and not any(rest):
            rest = self._file.read(_MAX_BYTES)
        return len(rest) < _FRAME.size

    def _damaged(self, at: int) -> StateError:
        return StateError(
            f"{self.path} is damaged at byte {at} of {self.path.stat().st_size}",
            action="what comes before can be kept by cutting the file there; or move it away and replay the source",
        )


def _next(file: Any) -> bytes | None:
    """The next message's bytes; None where there is no whole one."""
    frame = file.read(_FRAME.size)
    if len(frame) < _FRAME.size:
        return None
    length, crc = _FRAME.unpack(frame)
    if not 0 < length <= _MAX_BYTES:
        return None
    payload: bytes = file.read(length)
    return payload if len(payload) == length and zlib.crc32(payload) == crc else None
