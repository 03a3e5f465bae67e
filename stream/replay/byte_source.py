"""The bytes of a file, decompressed: plain, gzip, zstandard, bzip2, or a stream. Damage is an error, never an end."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import select
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from store.base.errors import AnchorstreamError, NotFoundError
from stream.replay.row_file import STDIN, unreadable

COMPRESSIONS = {".gz": "gzip", ".zst": "zstandard", ".zstd": "zstandard", ".bz2": "bzip2"}
"""Suffix → compression."""
DAMAGED = (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError, OSError)
"""What reading raises of a file that is damaged, cut short, or cannot be read at all."""
CHUNK = 256 << 10
_COMPRESSED_CHUNK = 16 << 10
"""Of zstandard, whose decoder gives all of what it is given: at most 128 KiB for each 4 bytes."""
_QUIET_SECONDS = 1.0


class ByteSource:
    """One file. path: `-` = standard input. repeatable: `open` begins anew each time; not of a stream.

    Raises:
        NotFoundError: there is no such file.
    """

    def __init__(self, path: str, compression: str = "") -> None:
        self.path = path
        self.compression = compression
        self._raw: IO[bytes] | None = None
        self._text: io.BufferedIOBase | None = None
        self.size = 0
        self.repeatable = False
        if path != STDIN:
            try:
                self._raw = Path(path).open("rb")  # noqa: SIM115 (closed by close())
            except OSError as exc:
                raise NotFoundError(f"{path}: {exc.strerror}", action="give the path of a file") from exc
            status = os.fstat(self._raw.fileno())
            self.repeatable = stat.S_ISREG(status.st_mode)
            self.size = status.st_size if self.repeatable else 0

    @property
    def position(self) -> int:
        """Bytes of the file read so far, before decompression; 0 of a stream."""
        return self._raw.tell() if self.repeatable and self._raw is not None and not self._raw.closed else 0

    def open(self) -> io.BufferedIOBase:
        """The decompressed bytes from the beginning. Reading raises one of DAMAGED."""
        if self._raw is None:
            self._raw = open(sys.stdin.fileno(), "rb", closefd=False)  # noqa: SIM115 (closed by close())
        if self.repeatable:
            self._raw.seek(0)
        if self._text is None or self.repeatable:
            self._text = _decompressed(self._raw, self.compression)
        if self.repeatable and self.compression and self.size == 0:
            raise EOFError("it is empty")
        return self._text

    def chunks(self) -> Iterator[bytes]:
        """As `open`, piece by piece; an empty piece when nothing has come from a stream for a second."""
        text = self.open()
        waits = not self.repeatable and not self.compression
        while True:
            if waits and not select.select([text.fileno()], [], [], _QUIET_SECONDS)[0]:
                yield b""
                continue
            if not (chunk := text.read1(CHUNK)):
                return
            yield chunk

    def check(self, tick: Callable[[], object]) -> None:
        """Read all of a compressed file: what a damaged one gives before its check sum is wrong may be anything.

        tick: called now and then.

        Raises:
            AnchorstreamError: `file_unreadable`.
        """
        if not (self.compression and self.repeatable):
            return
        lines = 0
        try:
            for chunk in self.chunks():
                lines += chunk.count(b"\n")
                tick()
        except DAMAGED as exc:
            raise self.damaged(lines, exc) from exc

    def damaged(self, lines: int, exc: BaseException) -> AnchorstreamError:
        """The error, after so many lines."""
        return unreadable(self.path, f"after line {lines}, byte {self.position:,} of {self.size:,}", exc)

    def close(self) -> None:
        """Close the file; standard input stays open."""
        if self._raw is not None:
            self._raw.close()


def _decompressed(raw: IO[bytes], compression: str) -> io.BufferedIOBase:
    if compression == "gzip":
        return io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=raw)), CHUNK)
    if compression == "bzip2":
        return io.BufferedReader(cast("io.RawIOBase", bz2.BZ2File(raw)), CHUNK)
    if compression == "zstandard":
        return io.BufferedReader(_Zstandard(raw), CHUNK)
    return cast("io.BufferedIOBase", raw)


class _Zstandard(io.RawIOBase):
    """Frames one after the other. The package's own reader takes a cut-off frame for the end of the file."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._frame: Any = None
        self._rest = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As of any raw file. Raises EOFError inside a frame, ZstdError."""
        while not self._ready:
            data = self._rest or self._raw.read(_COMPRESSED_CHUNK)
            self._rest = b""
            if not data:
                if self._frame is not None:
                    raise EOFError("it ends in the middle of a frame")
                return 0
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._ready = memoryview(self._frame.decompress(data))
            if self._frame.eof:
                self._rest, self._frame = self._frame.unused_data, None
        count = min(len(self._ready), len(buffer))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count
