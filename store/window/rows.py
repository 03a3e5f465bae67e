"""Keys and values of the token buffer and of its log, the `tokens` topic: the same bytes in both.

    key     = u16 len(user) | user | u8 len(modality) | modality | kind | rest
    kind 0  = summary                  rest = (empty)
    kind 1  = event                    rest = u64 ts_ms | event_id
    kind 2  = field (tabular)          rest = field name

    event   = u8 format | u8 n | u64 digest | n × f4 numbers (NaN = missing) | dim × f2 vector
              (format 2: a light row, of an event that has left the window and is remembered; without the vector)
    field   = u8 format | u8 n | u64 digest | u64 ts_ms | u16 len(event_id) | event_id | n × f4 | dim × f2
              (a field set to null keeps its row with n = 0 and no vector, so that an older value cannot return)
    summary = msgpack array of the fields of `SummaryRow`, in their order

Integers are big-endian (the default key order is then: user, modality, time), vectors little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from store.base.errors import StateError
from store.window.memory import NO_MEMORY, Memory, pack_blocks, unpack_blocks

FORMAT = 1
LIGHT = 2
"""Format of light rows."""
KIND_SUMMARY, KIND_EVENT, KIND_FIELD = 0, 1, 2

Vector16 = NDArray[np.float16]
Vector32 = NDArray[np.float32]

_HEAD = struct.Struct(">BBQ")
_FIELD_HEAD = struct.Struct(">BBQQH")
_U64 = struct.Struct(">Q")
_U16 = struct.Struct(">H")


EVENT_HEADS = tuple(bytes((FORMAT, numbers)) for numbers in range(256))
"""First bytes of an event row by how many numbers it has; its digest (u64), numbers and vector follow."""
LIGHT_HEADS = tuple(bytes((LIGHT, numbers)) for numbers in range(256))
"""The same of a light row."""


class RowKey(NamedTuple):
    """A parsed key. `ts` is 0 and `name` empty where the kind has none; `name` = event id or field name."""

    user_id: str
    modality: str
    kind: int
    ts: int
    name: str


class EventRow(NamedTuple):
    """One event: its numbers, float32 (n,), and its text vector, float16 (dim,); of a light row of size 0."""

    digest: int
    numbers: Vector32
    vector: Vector16


class FieldRow(NamedTuple):
    """Latest value of one tabular field; `vector` has size 0 when the field was set to null."""

    digest: int
    ts: int
    event_id: str
    numbers: Vector32
    vector: Vector16


class Summary(NamedTuple):
    """One (user, modality): exact sums over its rows, so that adding and removing rows never drifts.

    rows: rows in the window (tabular: fields that are not null).
    oldest: event time of the oldest row, ms (tabular: null fields too); 0 when empty.
    newest: newest event time seen, ms; that of the newest row unless empty.
    vector_sum: float32 (dim,), exact: row vectors are multiples of 2**-14 and at most 1000 in number.
    number_sums, number_counts: int, per configured number: fixed-point sum of signed logs, and how many were present.
    covers: {"topic:partition": last raw offset seen of this user in this modality}, duplicates included.
    ingested_at: ms, newest ingestion time covered.
    erased: ms; the user was erased up to and with this event time, 0 = never: older rows are gone, and none may come.
    memory: what left the window and is remembered.
    """

    rows: int
    oldest: int
    newest: int
    vector_sum: Vector32
    number_sums: tuple[int, ...]
    number_counts: tuple[int, ...]
    covers: dict[str, int]
    ingested_at: int
    erased: int = 0
    memory: Memory = NO_MEMORY


class SummaryRow(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """A summary as it is written; the fields of `Summary`. vector: dim × f4. covers: in the order of its keys.

    memory_rows, memory_oldest, blocks: `Memory`; blocks as store/window/memory.py packs them. Without memory these
    are left out, and so is erased where it is 0: as older versions wrote it.
    """

    format: int
    rows: int
    oldest: int
    newest: int
    vector: bytes
    sums: list[int]
    counts: list[int]
    covers: dict[str, int]
    ingested_at: int
    erased: int = 0
    memory_rows: int = 0
    memory_oldest: int = 0
    blocks: bytes = b""

    def packed(self) -> bytes:
        """The row's bytes."""
        if self.memory_rows:
            return _encode(self)
        if self.erased:
            return b"\x9a" + _encode(self)[1:-4]  # an array of ten, without memory: 0, 0 and no bytes
        return b"\x99" + _encode(self)[1:-5]  # an array of nine, without erased either

    def freeze(self) -> Summary:
        """The summary."""
        sums = tuple(self.sums)
        memory = NO_MEMORY
        if self.memory_rows:
            memory = Memory(self.memory_rows, self.memory_oldest, unpack_blocks(self.blocks, len(sums)))
        return Summary(
            self.rows, self.oldest, self.newest, np.frombuffer(self.vector, "<f4"), sums, tuple(self.counts),
            self.covers, self.ingested_at, self.erased, memory,
        )  # fmt: skip


def user_prefix(user_id: str) -> bytes:
    """Prefix of all keys of a user; no user's prefix is a prefix of another's."""
    raw = user_id.encode()
    return _U16.pack(len(raw)) + raw


def modality_prefix(user_id: str, modality: str) -> bytes:
    """Prefix of all keys of one (user, modality)."""
    raw = modality.encode()
    return user_prefix(user_id) + bytes((len(raw),)) + raw


def summary_key(user_id: str, modality: str) -> bytes:
    """Key of the summary row: the first of its (user, modality)."""
    return modality_prefix(user_id, modality) + b"\x00"


def event_key(user_id: str, modality: str, ts: int, event_id: str) -> bytes:
    """Key of an event row; sorts by time, then event id."""
    return modality_prefix(user_id, modality) + b"\x01" + _U64.pack(ts) + event_id.encode()


def field_key(user_id: str, modality: str, field: str) -> bytes:
    """Key of a tabular field's row."""
    return modality_prefix(user_id, modality) + b"\x02" + field.encode()


def prefix_end(prefix: bytes) -> bytes:
    """Smallest key above every key with this prefix (no prefix here is all 0xff)."""
    cut = prefix.rstrip(b"\xff")
    return cut[:-1] + bytes((cut[-1] + 1,))


def parse_key(key: bytes) -> RowKey:
    """Inverse of the key functions. Raises ValueError on anything else."""
    try:
        end = 2 + _U16.unpack_from(key)[0]
        user = key[2:end].decode()
        start, end = end + 1, end + 1 + key[end]
        modality = key[start:end].decode()
        kind, rest = key[end], key[end + 1 :]
        if kind == KIND_SUMMARY and not rest:
            return RowKey(user, modality, kind, 0, "")
        if kind == KIND_EVENT:
            return RowKey(user, modality, kind, _U64.unpack_from(rest)[0], rest[8:].decode())
        if kind == KIND_FIELD:
            return RowKey(user, modality, kind, 0, rest.decode())
    except (struct.error, IndexError, UnicodeDecodeError) as exc:
        raise ValueError(f"not a row key: {key!r}") from exc
    raise ValueError(f"not a row key: {key!r}")


def pack_event(row: EventRow) -> bytes:
    """Bytes of an event row; a light one where there is no vector."""
    numbers = np.asarray(row.numbers, "<f4")
    head = _HEAD.pack(FORMAT if row.vector.size else LIGHT, numbers.size, row.digest)
    return head + numbers.tobytes() + np.asarray(row.vector, "<f2").tobytes()


def unpack_event(value: bytes) -> EventRow:
    """Inverse of `pack_event`; the arrays are read-only views. Raises ValueError on another format."""
    fmt, n, digest = _HEAD.unpack_from(value)
    if fmt != LIGHT:
        _check(fmt)
    at = _HEAD.size
    return EventRow(digest, np.frombuffer(value, "<f4", n, at), np.frombuffer(value, "<f2", -1, at + 4 * n))


def event_parts(value: bytes) -> tuple[bytes, bytes]:
    """(numbers, vector) of a packed event row, little-endian f4 and f2. Raises ValueError on another format."""
    if value[0] != FORMAT:
        _check(value[0])
    cut = 10 + 4 * value[1]
    return value[10:cut], value[cut:]


def light_row(value: bytes) -> bytes:
    """What a packed event row becomes when it leaves the window and is remembered."""
    return LIGHT_HEADS[value[1]] + value[2 : 10 + 4 * value[1]]


def pack_field(row: FieldRow) -> bytes:
    """Bytes of a field row."""
    numbers, event_id = np.asarray(row.numbers, "<f4"), row.event_id.encode()
    head = _FIELD_HEAD.pack(FORMAT, numbers.size, row.digest, row.ts, len(event_id))
    return head + event_id + numbers.tobytes() + np.asarray(row.vector, "<f2").tobytes()


def unpack_field(value: bytes) -> FieldRow:
    """Inverse of `pack_field`; the arrays are read-only views. Raises ValueError on another format."""
    fmt, n, digest, ts, length = _FIELD_HEAD.unpack_from(value)
    _check(fmt)
    at = _FIELD_HEAD.size + length
    event_id = value[_FIELD_HEAD.size : at].decode()
    numbers = np.frombuffer(value, "<f4", n, at)
    return FieldRow(digest, ts, event_id, numbers, np.frombuffer(value[at + 4 * n :], "<f2"))


def pack_summary(row: Summary) -> bytes:
    """Bytes of a summary row; equal summaries give equal bytes."""
    vector = np.asarray(row.vector_sum, "<f4").tobytes()
    covers = dict(sorted(row.covers.items()))
    return SummaryRow(
        FORMAT, row.rows, row.oldest, row.newest, vector, list(row.number_sums), list(row.number_counts), covers,
        row.ingested_at, row.erased, row.memory.rows, row.memory.oldest, pack_blocks(row.memory.blocks),
    ).packed()  # fmt: skip


def unpack_summary(value: bytes) -> Summary:
    """Inverse of `pack_summary`. Raises ValueError on another format."""
    return read_summary(value).freeze()


def read_summary(value: bytes) -> SummaryRow:
    """A summary row without its arrays and blocks being looked at. Raises ValueError on another format."""
    return decode_summary(_decode, value)


def newest_time(value: bytes | None) -> int:
    """Of a summary row its newest event time, ms: there may be no row of it, if it is erased or had no fields. 0 of a
    row that is deleted. Reads these bytes only: there are many.

    Raises:
        StateError: a format that this version does not know.
    """
    if value is None:
        return 0
    at = 2
    if value[1] == FORMAT:
        for _ in range(2):  # rows, oldest
            at += _INT_SIZES.get(value[at], 1)
        if (size := _INT_SIZES.get(first := value[at], 1)) > 1:
            return int.from_bytes(value[at + 1 : at + size], "big")
        if first < _INT_MARKS:
            return first
    try:
        return read_summary(value).newest
    except ValueError as exc:
        raise newer_log(str(exc)) from exc


def decode_summary(decode: Callable[[bytes], _Row], value: bytes) -> _Row:
    """A summary row by the decoder of `SummaryRow` or of a class made from it. Raises ValueError on another format."""
    try:
        row = decode(value)
    except msgspec.ValidationError:
        found = msgspec.msgpack.decode(value)
        if isinstance(found, list) and found and isinstance(found[0], int):
            _check(found[0])
        raise
    if row.format != FORMAT:
        _check(row.format)
    return row


_Row = TypeVar("_Row", bound=SummaryRow)
_INT_MARKS = 0x80
_INT_SIZES = {0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}
"""First byte of a summary with ten fields; one with all of them is above."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SummaryRow).decode


def check_row_format(kind: int, value: bytes) -> None:
    """
    Raises:
        StateError: a row of the log has a format that this version does not know.
    """
    if value[0] != FORMAT and not (value[0] == LIGHT and kind == KIND_EVENT):
        raise newer_log(f"row format {value[0]}; this version reads {FORMAT} and, of events, {LIGHT}")


def newer_log(detail: str) -> StateError:
    """What to raise when the log has what this version cannot read."""
    return StateError(
        f"the `tokens` log cannot be read: {detail}",
        action="start the version of anchorstream that wrote them",
    )


def _check(fmt: int) -> None:
    if fmt != FORMAT:
        raise ValueError(f"row format {fmt}; this version reads {FORMAT}")
