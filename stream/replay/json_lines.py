"""Rows of JSON Lines: each line is a message, as it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator

from stream.replay.byte_source import DAMAGED, ByteSource
from stream.replay.row_file import MAX_ROW_BYTES, Row, RowFile


class JsonLines(RowFile):
    """Blank lines are left out.

    The last line counts as whole without its newline if it is a JSON object: no beginning of one is.
    """

    def __init__(self, source: ByteSource) -> None:
        super().__init__()
        self._source = source
        self.path, self.size, self.repeatable = source.path, source.size, source.repeatable

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
        number = 0
        try:
            for found in split_lines(self._source.chunks(), MAX_ROW_BYTES):
                if found is None:
                    yield None
                    continue
                number += 1
                line, ended = found
                if line is None:
                    yield Row(self.path, number, None, f"longer than {MAX_ROW_BYTES} bytes", ended)
                elif line.strip():
                    yield Row(self.path, number, line, "", ended or _is_object(line))
        except DAMAGED as exc:
            raise self._source.damaged(number, exc) from exc


def split_lines(chunks: Iterable[bytes], max_bytes: int) -> Iterator[tuple[bytes | None, bool] | None]:
    """Lines without their ends, and whether they had one. Pure.

    None instead of a line for an empty chunk, instead of its bytes for a line of more than `max_bytes`. What raises
    between two chunks takes the unfinished line with it.
    """
    parts: list[bytes] = []
    held = 0
    for chunk in chunks:
        if not chunk:
            yield None
            continue
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            yield _joined(parts, piece, held, max_bytes), True
            parts, held = [], 0
        held += len(rest)
        parts = [*parts, rest] if held <= max_bytes else []
    if held:
        yield _joined(parts, b"", held, max_bytes), False


def _joined(parts: list[bytes], piece: bytes, held: int, max_bytes: int) -> bytes | None:
    if held + len(piece) > max_bytes:
        return None
    return (b"".join([*parts, piece]) if held else piece).rstrip(b"\r")


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
