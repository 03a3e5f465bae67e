"""What lies where in a token buffer's database.

    column family   key                                          value
    rows            event and field rows (store/window/rows.py)         as in the `tokens` log
    summaries       summary rows                                 as in the `tokens` log
    ids             (user, modality) prefix | event id           u64 ts | u64 digest
    expiry          u8 len(modality) | modality | u64 ts | user  empty: a lower bound of when something is due
    dirty           user                                         u64 first offset | u64 last offset | u8 sweep only
    meta            a name below                                 text or bytes, or big-endian integer

`ids` and `expiry` are derived from the rows. A replica, which never judges an event, has other things in them: when
each user is next looked at for silence (store/buffer/tick_index.py).
Summaries have a family of their own so that users and summaries can be walked without touching their windows.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgpack

from store.account.account import Account
from store.base.errors import StateError
from store.base.settings import ModalityKind, ModalitySettings
from store.window.rows import LIGHT, newer_log

ROWS, SUMMARIES, IDS, EXPIRY, DIRTY, META = "rows", "summaries", "ids", "expiry", "dirty", "meta"
FAMILIES = (ROWS, SUMMARIES, IDS, EXPIRY, DIRTY, META)

FLUSH_ORDER = (EXPIRY, DIRTY, IDS, ROWS, SUMMARIES, META)
"""What may be durable without what: an entry of an index without its row is looked at and dropped, a row without its
entry would never expire; nothing may be missing below the position, which is in `meta`."""

BEGIN_ANEW = (
    "begin anew from the raw topics: stop every role, set another kafka.topic_prefix, remove the folders processor, "
    "worker and serve of store.data_dir and nothing else there (kafka and kept are the source of everything), start"
)
"""What is left where rows are of something that is not coming back."""

BUFFER_FORMAT = 1
"""Version of this layout; raise it with any change, together with store/window/rows.py's."""

FORMAT = f"{BUFFER_FORMAT}.{LIGHT}"
"""Of layout and rows, as it is written in `meta`."""
FORMAT_BEFORE = "1.1"
"""Without light rows: read as it is."""

M_FORMAT, M_ENCODER, M_DIM, M_IDENTITY, M_ROLE = b"format", b"encoder", b"dim", b"identity", b"role"
M_SOURCE_OFFSET, M_LOG_OFFSET, M_STREAM_TIME = b"source_offset", b"log_offset", b"stream_time"
M_OWNER = b"owner"
M_ACCOUNT = b"account"
"""What became of the events (store/account/account.py)."""
M_SOURCE_TOPIC = b"source_topic"
"""Id of the topic that `source_offset` counts for; a topic made anew has another."""
M_WALL_TIME = b"wall_time"
"""Up to which hour time has passed by the wall, as the log says."""
M_LOG_TOPIC = b"log_topic"
"""Id of the topic that `log_offset` counts for."""
M_RESTORING = b"restoring"
"""A restore by an older version that did not end: the expiry index is not whole."""

M_SCHEMA = b"schema"
"""What the rows are made of according to the log, see `Schema`."""

M_INDEXED = b"indexed"
"""Every window has its entry in `expiry`. Its value: for which window, memory and count, by modality; in databases of
older versions it is empty, and those that lack it may lack entries."""

M_ACCEPTED = b"accepted"
"""From which event time on events are accepted (store/window/accepted.py)."""

M_STALE = b"stale/"
"""Prefix, followed by a row key: a former owner logged that row late, so ours has to be logged again."""

M_BACK_FILL = b"back_fill/"
"""Prefix, followed by a scenario's name: how far its back-fill has come (a worker's replica)."""

M_TICKS = b"ticks"
"""Every user of this replica is in its index of ticks, for these days of silence (store/buffer/tick_index.py)."""

M_UNSUMMED = b"unsummed/"
"""Prefix, followed by a (user, modality) prefix: the log, as far as it is applied, has rows after its last summary."""

_MSGPACK_MAP = 0x8
"""Upper half of the first byte of a small map."""
_U64 = struct.Struct(">Q")
_ID = struct.Struct(">QQ")
pack_id = _ID.pack
"""pack_id(ts, digest): value of `ids`. Its halves are also parts of the event's row key and row."""
_MARK = struct.Struct(">QQ?")


class Schema(NamedTuple):
    """What rows are made of. It is part of the state's identity: kept in the database and, so that a lost disk is not
    restored into something else, in the log (the value of a take-over's marker).

    modalities: (kind, names of the numbers) by name, of all that were ever configured. A tabular one names no numbers.
    """

    encoder_id: str
    dim: int
    modalities: dict[str, tuple[str, tuple[str, ...]]]

    @classmethod
    def of(cls, encoder_id: str, dim: int, modalities: Mapping[str, ModalitySettings]) -> Schema:
        """As configured."""
        tabular = ModalityKind.TABULAR
        return cls(
            encoder_id,
            dim,
            {name: (str(m.kind), () if m.kind is tabular else m.numbers) for name, m in modalities.items()},
        )

    def pack(self, **more: bytes | Sequence[int]) -> bytes:
        """Bytes in the database and in the log. more: for readers who know them."""
        schema = {"v": 1, "encoder": self.encoder_id, "dim": self.dim, "modalities": self.modalities}
        return msgpack.packb(schema | more)  # type: ignore[no-any-return]

    @classmethod
    def unpack(cls, value: bytes | None) -> Schema | None:
        """Inverse of `pack`; None where there is none, as in markers of older versions.

        Raises:
            StateError: a newer version wrote it.
        """
        if not (raw := _read_map(value)):
            return None
        if raw["v"] != 1:
            raise newer_log(f"schema version {raw['v']}; this version reads 1")
        return cls(
            raw["encoder"], raw["dim"], {name: (kind, tuple(of)) for name, (kind, of) in raw["modalities"].items()}
        )

    def with_others_of(self, older: Schema | None) -> Schema:
        """This one, and the modalities that only `older` knows."""
        return self if older is None else self._replace(modalities=older.modalities | self.modalities)

    def check(self, configured: Schema, where: str) -> None:
        """Compare with what is configured; modalities that only one of them knows are fine.

        Args:
            where: what holds this schema, for people.

        Raises:
            StateError: they do not go together.
        """
        if (self.encoder_id, self.dim) != (configured.encoder_id, configured.dim):
            raise StateError(
                f"{where} holds vectors of the text encoder {self.encoder_id!r} ({self.dim} values), not of "
                f"{configured.encoder_id!r} ({configured.dim})",
                action=f"set the text encoder back (the version of anchorstream that wrote it); or {BEGIN_ANEW}",
            )
        for name, (kind, numbers) in configured.modalities.items():
            stored = self.modalities.get(name, (kind, numbers))
            if stored == (kind, numbers):
                continue
            what = "kind" if stored[0] != kind else "numbers"
            found, wanted = (stored[0], kind) if what == "kind" else (list(stored[1]), list(numbers))
            raise StateError(
                f"{where} holds modalities.{name} with {what} = {found!r}, not {wanted!r}",
                action=f"set modalities.{name}.{what} back; what is new gets a modality with another name. "
                f"Or {BEGIN_ANEW}",
            )


class Arrival(NamedTuple):
    """at: when the newest event of a batch came in, ms. behind_ms: how long before its rows were sent that was."""

    at: int
    behind_ms: int


def marker(
    schema: Schema, account: Account, arrival: Arrival | None = None, wall_time: int = 0, accepted: bytes = b""
) -> bytes:
    """Value of an owner's record in the log: when it takes over, and before the rows of each batch.

    arrival: of the batch, as far as that is known. wall_time: ms, the stream time is at least this; 0 = not said.
    accepted: as packed by store/window/accepted.py.
    """
    more: dict[str, Any] = {} if arrival is None else {"arrived": arrival}
    if wall_time:
        more["time"] = wall_time
    if accepted:
        more["accepted"] = accepted
    return schema.pack(account=account.packed, **more)


def marked_account(value: bytes | None) -> Account | None:
    """The account in a marker; None where there is none, as in those of older versions.

    Raises:
        StateError: a newer version wrote it.
    """
    if (found := _read_map(value).get("account")) is None:
        return None
    try:
        return Account.unpack(found)
    except ValueError as exc:
        raise newer_log(str(exc)) from exc


def marked_arrival(value: bytes | None) -> Arrival | None:
    """When the events of the rows behind a marker came in; None where it does not say."""
    arrived = _read_map(value).get("arrived")
    return None if arrived is None else Arrival(*arrived)


def marked_time(value: bytes | None) -> int:
    """Up to which hour time has passed by the wall, ms; 0 where a marker does not say."""
    return int(_read_map(value).get("time") or 0)


def marked_accepted(value: bytes | None) -> bytes | None:
    """From which event time on events are accepted, packed; None where a marker does not say, as of older versions."""
    found: bytes | None = _read_map(value).get("accepted")
    return found


def _read_map(value: bytes | None) -> dict[str, Any]:
    """Empty where there is none: older versions' markers were other bytes, or none."""
    return msgpack.unpackb(value) if value and value[0] >> 4 == _MSGPACK_MAP else {}


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


def pack_int(number: int) -> bytes:
    """Integer in `meta`, signed."""
    return number.to_bytes(8, "big", signed=True)


def unpack_int(value: bytes) -> int:
    """Inverse of `pack_int`."""
    return int.from_bytes(value, "big", signed=True)
