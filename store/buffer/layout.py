"""What lies where in a token buffer's database.

    column family   key                                          value
    rows            event and field rows (store/buffer/rows.py)         as in the `tokens` log
    summaries       summary rows                                 as in the `tokens` log
    ids             (user, modality) prefix | event id           u64 ts | u64 digest
    expiry          u8 len(modality) | modality | u64 ts | user  empty: a lower bound of when something is due
    dirty           user                                         u64 first offset | u64 last offset | u8 sweep only
    meta            a name below                                 text or bytes, or big-endian integer

`ids` and `expiry` are derived from the rows and are left out of a replica, which never judges an event.
Summaries have a family of their own so that users and summaries can be walked without touching their windows.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

ROWS, SUMMARIES, IDS, EXPIRY, DIRTY, META = "rows", "summaries", "ids", "expiry", "dirty", "meta"
FAMILIES = (ROWS, SUMMARIES, IDS, EXPIRY, DIRTY, META)

FLUSH_ORDER = (EXPIRY, DIRTY, IDS, ROWS, SUMMARIES, META)
"""What may be durable without what: an entry of an index without its row is looked at and dropped, a row without its
entry would never expire; nothing may be missing below the position, which is in `meta`."""

BUFFER_FORMAT = 1
"""Version of this layout; raise it with any change, together with store/buffer/rows.py's."""

M_FORMAT, M_ENCODER, M_DIM, M_IDENTITY, M_ROLE = b"format", b"encoder", b"dim", b"identity", b"role"
M_SOURCE_OFFSET, M_LOG_OFFSET, M_STREAM_TIME = b"source_offset", b"log_offset", b"stream_time"
M_OWNER, M_OUTCOMES = b"owner", b"outcomes"
M_RESTORING = b"restoring"
"""A restore by an older version that did not end: the expiry index is not whole."""

M_INDEXED = b"indexed"
"""Every window has its entry in `expiry`. Databases of older versions lack this mark, and may lack entries."""

M_STALE = b"stale/"
"""Prefix, followed by a row key: a former owner logged that row late, so ours has to be logged again."""

M_BACK_FILL = b"back_fill/"
"""Prefix, followed by a scenario's name: how far its back-fill has come (a worker's replica)."""

M_UNSUMMED = b"unsummed/"
"""Prefix, followed by a (user, modality) prefix: the log, as far as it is applied, has rows after its last summary."""

_U64 = struct.Struct(">Q")
_OUTCOMES = struct.Struct(">5Q")
_ID = struct.Struct(">QQ")
_MARK = struct.Struct(">QQ?")


class ExpiryKey(NamedTuple):
    """A parsed key of `expiry`; `ts` is a lower bound of what is due, 0 = write the summary to the log again."""

    modality: str
    ts: int
    user_id: str


class DirtyMark(NamedTuple):
    """Why a user is dirty: `tokens` offsets of the first and last change; `sweep`: by expiry alone (low priority)."""

    first: int
    last: int
    sweep: bool


def prefix_length(key: bytes) -> int:
    """Length of the (user, modality) prefix of a row key; the kind is the byte after it."""
    at = 2 + (key[0] << 8 | key[1])
    return at + 1 + key[at]


def split_prefix(prefix: bytes) -> tuple[str, str]:
    """(user, modality) of a prefix."""
    at = 2 + (prefix[0] << 8 | prefix[1])
    return prefix[2:at].decode(), prefix[at + 1 :].decode()


def expiry_key(modality: str, ts: int, user_id: str) -> bytes:
    """Key of `expiry`; negative times count as 0."""
    name = modality.encode()
    return bytes((len(name),)) + name + _U64.pack(max(ts, 0)) + user_id.encode()


def parse_expiry_key(key: bytes) -> ExpiryKey:
    """Inverse of `expiry_key`."""
    at = 1 + key[0]
    return ExpiryKey(key[1:at].decode(), _U64.unpack_from(key, at)[0], key[at + 8 :].decode())


def pack_id(ts: int, digest: int) -> bytes:
    """Value of `ids`."""
    return _ID.pack(ts, digest)


def unpack_id(value: bytes) -> tuple[int, int]:
    """(ts, digest)."""
    ts, digest = _ID.unpack(value)
    return ts, digest


def pack_dirty_mark(mark: DirtyMark) -> bytes:
    """Value of `dirty`."""
    return _MARK.pack(*mark)


def unpack_dirty_mark(value: bytes) -> DirtyMark:
    """Inverse of `pack_dirty_mark`."""
    return DirtyMark(*_MARK.unpack(value))


def pack_outcomes(counts: tuple[int, ...]) -> bytes:
    """Five counts in `meta`."""
    return _OUTCOMES.pack(*counts)


def unpack_outcomes(value: bytes | None) -> tuple[int, ...]:
    """Inverse of `pack_outcomes`; zeros where there is none."""
    return (0,) * 5 if value is None else _OUTCOMES.unpack(value)


def pack_int(number: int) -> bytes:
    """Integer in `meta`, signed."""
    return number.to_bytes(8, "big", signed=True)


def unpack_int(value: bytes) -> int:
    """Inverse of `pack_int`."""
    return int.from_bytes(value, "big", signed=True)
