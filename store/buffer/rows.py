"""Keys and values of the token buffer and of its log, the `tokens` topic: the same bytes in both.

    key     = u16 len(user) | user | u8 len(modality) | modality | kind | rest
    kind 0  = summary                  rest = (empty)
    kind 1  = event                    rest = u64 ts_ms | event_id
    kind 2  = field (tabular)          rest = field name

    event   = u8 format | u8 n | u64 digest | n × f4 numbers (NaN = missing) | dim × f2 vector
    field   = u8 format | u8 n | u64 digest | u64 ts_ms | u16 len(event_id) | event_id | n × f4 | dim × f2
              (a field set to null keeps its row with n = 0 and no vector, so that an older value cannot return)
    summary = msgpack array, see `Summary`

Integers are big-endian (the default key order is then: user, modality, time), vectors little-endian.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray

from store.base.errors import StateError

FORMAT = 1
KIND_SUMMARY, KIND_EVENT, KIND_FIELD = 0, 1, 2

Vector16 = NDArray[np.float16]
Vector32 = NDArray[np.float32]

_HEAD = struct.Struct(">BBQ")
_FIELD_HEAD = struct.Struct(">BBQQH")
_U64 = struct.Struct(">Q")
_U16 = struct.Struct(">H")


class RowKey(NamedTuple):
    """A parsed key. `ts` is 0 and `name` empty where the kind has none; `name` = event id or field name."""

    user_id: str
    modality: str
    kind: int
    ts: int
    name: str


class EventRow(NamedTuple):
    """One event: its numbers, float32 (n,), and its text vector, float16 (dim,)."""

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
    """

    rows: int
    oldest: int
    newest: int
    vector_sum: Vector32
    number_sums: tuple[int, ...]
    number_counts: tuple[int, ...]
    covers: dict[str, int]
    ingested_at: int


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
    """Bytes of an event row."""
    numbers = np.asarray(row.numbers, "<f4")
    return _HEAD.pack(FORMAT, numbers.size, row.digest) + numbers.tobytes() + np.asarray(row.vector, "<f2").tobytes()


def unpack_event(value: bytes) -> EventRow:
    """Inverse of `pack_event`; the arrays are read-only views. Raises ValueError on another format."""
    fmt, n, digest = _HEAD.unpack_from(value)
    _check(fmt)
    at = _HEAD.size
    return EventRow(digest, np.frombuffer(value, "<f4", n, at), np.frombuffer(value, "<f2", -1, at + 4 * n))


def pack_event_head(digest: int, numbers: int) -> bytes:
    """First bytes of an event row; its numbers and its vector follow. For packing many (see `pack_event`)."""
    return _HEAD.pack(FORMAT, numbers, digest)


def event_numbers(value: bytes) -> tuple[float, ...]:
    """Numbers of a packed event row. Raises ValueError on another format."""
    _check(value[0])
    return struct.unpack_from(f"<{value[1]}f", value, _HEAD.size)


def event_vector(value: bytes) -> bytes:
    """Vector of a packed event row, little-endian float16. Raises ValueError on another format."""
    _check(value[0])
    return value[_HEAD.size + 4 * value[1] :]


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
    return msgpack.packb(  # type: ignore[no-any-return]
        (
            FORMAT,
            row.rows,
            row.oldest,
            row.newest,
            np.asarray(row.vector_sum, "<f4").tobytes(),
            row.number_sums,
            row.number_counts,
            dict(sorted(row.covers.items())),
            row.ingested_at,
        )
    )


def unpack_summary(value: bytes) -> Summary:
    """Inverse of `pack_summary`. Raises ValueError on another format."""
    fmt, rows, oldest, newest, total, sums, counts, covers, ingested_at = msgpack.unpackb(value)
    _check(fmt)
    vector = np.frombuffer(total, "<f4")
    return Summary(rows, oldest, newest, vector, tuple(sums), tuple(counts), covers, ingested_at)


def newer_log(detail: str) -> StateError:
    """What to raise when the log has what this version cannot read."""
    return StateError(
        f"the `tokens` log cannot be read: {detail}",
        action="start the version of anchorstream that wrote them",
    )


def _check(fmt: int) -> None:
    if fmt != FORMAT:
        raise ValueError(f"row format {fmt}; this version reads {FORMAT}")
