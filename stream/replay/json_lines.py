"""Lines of JSON Lines files, as bytes: plain, gzip or zstandard by the file's name, `-` for standard input."""

from __future__ import annotations

import gzip
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, Self, cast

import zstandard

from store.base.errors import AnchorstreamError, NotFoundError

MAX_LINE_BYTES = 16 << 20
"""A longer line is read past, not held in memory."""
STDIN = "-"


class Line(NamedTuple):
    """One line without its end. `value` is None for a line above `MAX_LINE_BYTES`. `number` counts from 1."""

    file: str
    number: int
    value: bytes | None


class LineFile:
    """An open file of lines; blank lines are left out. A context manager.

    Raises:
        NotFoundError: there is no such file.
        AnchorstreamError `file_unreadable`: while iterating, the compressed stream is damaged or truncated.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._raw: IO[bytes]
        if path == STDIN:
            self._raw, self.size = sys.stdin.buffer, 0
        else:
            try:
                self._raw = Path(path).open("rb")  # noqa: SIM115 (closed by close())
            except OSError as exc:
                raise NotFoundError(f"{path}: {exc.strerror}", action="give the path of a .jsonl file") from exc
            self.size = os.fstat(self._raw.fileno()).st_size
        self._text = _decompressed(self._raw, path)

    @property
    def position(self) -> int:
        """Bytes of the file read so far (compressed, if it is); 0 on standard input."""
        return self._raw.tell() if self.size else 0

    def __iter__(self) -> Iterator[Line]:
        number = 0
        try:
            while chunk := self._text.readline(MAX_LINE_BYTES + 1):
                number += 1
                value: bytes | None = chunk.rstrip(b"\r\n")
                if len(chunk) > MAX_LINE_BYTES and not chunk.endswith(b"\n"):
                    value = None
                    while (chunk := self._text.readline(MAX_LINE_BYTES)) and not chunk.endswith(b"\n"):
                        pass
                if value is None or value.strip():
                    yield Line(self.path, number, value)
        except (gzip.BadGzipFile, EOFError, zstandard.ZstdError, OSError) as exc:
            raise AnchorstreamError(
                f"{self.path}: cannot be read after line {number}: {exc}",
                action="the file is damaged or cut short; lines before this one were read",
                code="file_unreadable",
            ) from exc

    def close(self) -> None:
        """Close the file; standard input stays open."""
        if self.path != STDIN:
            self._text.close()
            self._raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _decompressed(raw: IO[bytes], path: str) -> io.BufferedIOBase:
    if path.endswith(".gz"):
        return io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=raw)))
    if path.endswith((".zst", ".zstd")):
        reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=False)
        return io.BufferedReader(cast("io.RawIOBase", reader))
    return cast("io.BufferedIOBase", raw)
