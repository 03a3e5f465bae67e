"""Rows of CSV with a header: each record becomes a JSON object of its columns, all texts (RFC 4180).

Streams; holds one record. A record that does not fit the header is not guessed at: it is a row with a fault.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from store.base.errors import ConfigError
from stream.replay.byte_source import DAMAGED, ByteSource
from stream.replay.row_file import Row, RowFile, unreadable

MAX_FIELD_CHARS = 1 << 20
"""A longer field is most likely a quote that nobody closed."""
MAX_LINE_CHARS = 16 << 20
_OTHER_ENCODINGS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class CsvRows(RowFile):
    """Blank lines are left out, as are columns without a name (the index that pandas writes).

    Bytes that are not of the encoding become what ingest refuses as `invalid_utf8`. The last record counts as whole
    only with its newline.

    Args:
        delimiter: one character. encoding: of Python's; a byte order mark is passed over.

    Raises:
        ConfigError: no such encoding, or the delimiter cannot be one.
    """

    def __init__(self, source: ByteSource, *, delimiter: str = ",", encoding: str = "utf-8") -> None:
        super().__init__()
        self._source = source
        self._delimiter = delimiter
        self._encoding = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
        self.path, self.size, self.repeatable = source.path, source.size, source.repeatable
        try:
            codecs.lookup(self._encoding)
        except LookupError as exc:
            raise ConfigError(f"--encoding: {exc}", action="a name such as utf-8, latin-1 or cp1252") from exc
        try:
            csv.reader([], delimiter=delimiter)
        except (TypeError, ValueError) as exc:
            raise ConfigError(f"--delimiter {delimiter!r}: {exc}", action='one character, or "tab"') from exc

    @property
    def position(self) -> int:
        """Bytes of the file read so far."""
        return self._source.position

    def check(self, tick: Callable[[], object] = lambda: None) -> None:
        """Read all of a compressed file. Raises AnchorstreamError."""
        self._source.check(tick)

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def _rows(self) -> Iterator[Row | None]:
        text = lines = None
        try:
            binary: Any = self._source.open()
            if self.repeatable and self._encoding == "utf-8-sig":
                _refuse_utf16(self.path, binary)
            text = io.TextIOWrapper(binary, encoding=self._encoding, errors="surrogateescape", newline="")
            lines = _Lines(text)
            yield from self._records(lines)
        except DAMAGED as exc:
            raise self._source.damaged(lines.count if lines else 0, exc) from exc
        except UnicodeError as exc:  # of an encoding that cannot pass over what it does not know
            count = lines.count if lines else 0
            raise unreadable(self.path, f"after line {count}", exc, "set --encoding to what it is") from exc
        finally:
            if text is not None:
                text.detach()  # else it closes what is below

    def _records(self, lines: _Lines) -> Iterator[Row]:
        csv.field_size_limit(MAX_FIELD_CHARS)
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        columns: list[str] | None = None
        while True:
            number = lines.count + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except (csv.Error, _LineTooLong) as exc:
                if columns is None:
                    raise unreadable(self.path, "at its header", exc, "the first line names the columns") from exc
                yield Row(self.path, number, None, f"no CSV record: {exc}", lines.ended and not lines.done)
                continue
            if not fields:
                continue
            if columns is None:
                columns = _header(self.path, fields)
            elif len(fields) == len(columns):
                yield Row(self.path, number, _json(columns, fields), "", lines.ended)
            else:
                why = f"{len(fields)} fields, the header has {len(columns)}"
                yield Row(self.path, number, None, why, lines.ended)


class _LineTooLong(Exception):
    """Read past."""


class _Lines:
    """Lines of a text file with their ends, counted. ended: the last one had its newline. done: none is left."""

    def __init__(self, text: IO[str]) -> None:
        self._text = text
        self.count = 0
        self.ended = True
        self.done = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._text.readline(MAX_LINE_CHARS)
        if not line:
            self.done = True
            raise StopIteration
        self.count += 1
        self.ended = line[-1] in "\r\n"
        if self.ended or len(line) < MAX_LINE_CHARS:
            return line
        while (rest := self._text.readline(MAX_LINE_CHARS)) and rest[-1] not in "\r\n":
            pass
        self.ended = bool(rest)
        raise _LineTooLong(f"longer than {MAX_LINE_CHARS} characters")


def _header(path: str, fields: Sequence[str]) -> list[str]:
    twice = sorted({name for name in fields if name and fields.count(name) > 1})
    if twice:
        raise unreadable(path, "at its header", f"two columns are called {twice[0]!r}", "give each column its own name")
    if not any(fields):
        raise unreadable(path, "at its header", "no column has a name", "the first line names the columns")
    return list(fields)


def _json(columns: Sequence[str], fields: Sequence[str]) -> bytes:
    row: dict[str, Any] = {name: field for name, field in zip(columns, fields, strict=True) if name}
    try:
        return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a byte that is not of the encoding: ingest refuses the escape
        return json.dumps(row, separators=(",", ":")).encode()


def _refuse_utf16(path: str, binary: Any) -> None:
    if other := _OTHER_ENCODINGS.get(binary.peek(2)[:2]):
        raise unreadable(path, "at its first bytes", f"it is {other}", f"--encoding {other}")


def delimiter_of(word: str) -> str:
    """`tab` and `\\t` are the tabulator; anything else is itself."""
    return "\t" if word in ("tab", "\\t") else word
