"""Why a raw event was refused, or skipped: stable codes, each explained in docs/errors.md."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

MAX_DETAIL_CHARS = 300


class ErrorCode(StrEnum):
    """Header `error` of a dead letter."""

    NULL_VALUE = "null_value"
    """The message has no value (a tombstone or empty bytes)."""
    TOO_LARGE = "too_large"
    """The value is longer than `ingest.max_event_bytes`."""
    INVALID_UTF8 = "invalid_utf8"
    """Text that is not UTF-8, or a JSON escape of half a character (a lone surrogate)."""
    INVALID_JSON = "invalid_json"
    """Neither JSON nor a msgpack map; NaN and Infinity are not JSON."""
    INVALID_MSGPACK = "invalid_msgpack"
    """Starts like a msgpack map but cannot be read as one with string keys."""
    NOT_AN_OBJECT = "not_an_object"
    """JSON, but a list, string, number, boolean or null."""
    FOREIGN_FORMAT = "foreign_format"
    """Another format, or an event in a wrapping (Schema Registry, Connect, CSV, gzip, …): `detail` says which."""
    MISSING_USER_ID = "missing_user_id"
    """No `user_id`, or null."""
    INVALID_USER_ID = "invalid_user_id"
    """`user_id` is not a string of 1 to 128 characters."""
    INVALID_EVENT_ID = "invalid_event_id"
    """`event_id` is given and not a string of 1 to 128 characters."""
    MISSING_MODALITY = "missing_modality"
    """Several modalities share the topic and the event does not say which."""
    UNKNOWN_MODALITY = "unknown_modality"
    """`modality` is not one that arrives on this topic."""
    MISSING_TS = "missing_ts"
    """No `ts`, or null."""
    INVALID_TS = "invalid_ts"
    """`ts` is neither epoch milliseconds (0 to 2^63 - 1) nor RFC 3339 with an offset."""
    TS_IN_FUTURE = "ts_in_future"
    """`ts` is more than `ingest.max_future_seconds` ahead of the wall clock."""
    TS_TOO_OLD = "ts_too_old"
    """`ts` lies before the modality's window (or, replaying history, over `ingest.max_age_days` ago)."""
    TS_AHEAD_OF_STREAM = "ts_ahead_of_stream"
    """Replaying history: `ts` is more than `ingest.max_ahead_days` ahead of its partition's stream, and few agree."""
    INVALID_FIELD = "invalid_field"
    """A field the config names has a value of the wrong kind: a number must be a finite JSON number or null, a text
    field a scalar; a tabular field's name must have 1 to 128 characters."""
    NO_CONTENT = "no_content"
    """The event has none of the fields that its modality's `text` and `numbers` name (`require_content`)."""
    MODALITY_CHANGED = "modality_changed"
    """Ingest accepted it under another kind, or with other `numbers`, of its modality than the processor's."""
    INVALID_PACK = "invalid_pack"
    """A message of our own `events` topic that ingest did not write."""


class Rejection(NamedTuple):
    """A refused event. `detail` is for people; it quotes at most a few characters of the event."""

    code: ErrorCode
    detail: str


class SkipReason(StrEnum):
    """Why an event is skipped, as its topic's mapping says."""

    WHERE = "where"
    """A condition of `where` does not hold."""
    WITHOUT_VALUE = "without_value"
    """The message has no value (`skip_without_value`)."""
    WITHOUT_USER = "without_user"
    """It has no user (`skip_without_user`)."""
    OTHER_MODALITY = "other_modality"
    """It is of none of the topic's modalities (`skip_other_modalities`)."""


class Skipped(NamedTuple):
    """An event that is passed over: counted, no dead letter."""

    reason: SkipReason


def quote(value: object) -> str:
    """A short, printable ASCII form of a value for a `detail`."""
    try:
        text = ascii(value)
    except RecursionError:  # nested almost as deep as the parser allows
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."
