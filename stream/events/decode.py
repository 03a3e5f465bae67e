"""Raw bytes → a map with string keys: JSON object or msgpack map, told apart by the first byte.

A msgpack map starts with 0x80-0x8f, 0xde or 0xdf; no JSON text in UTF-8 does.
Duplicate keys: the last wins, in both. Pure; never raises.
"""

from __future__ import annotations

import json
from typing import Any

import msgpack

from stream.events import foreign_format
from stream.rejection import ErrorCode, Rejection, quote

_BOM = "\ufeff"
_MSGPACK_MAP = frozenset({*range(0x80, 0x90), 0xDE, 0xDF})


def decode(value: bytes | None, max_bytes: int) -> dict[str, Any] | Rejection:
    """The event's map, or why there is none."""
    if not value:
        return Rejection(ErrorCode.NULL_VALUE, "the message has no value")
    if len(value) > max_bytes:
        return Rejection(ErrorCode.TOO_LARGE, f"{len(value)} bytes; at most {max_bytes} (ingest.max_event_bytes)")
    return _from_msgpack(value) if value[0] in _MSGPACK_MAP else _from_json(value)


def is_msgpack(value: bytes) -> bool:
    """Whether `decode` takes these bytes for a msgpack map; otherwise for JSON."""
    return bool(value) and value[0] in _MSGPACK_MAP


def encodable(value: Any) -> bool:
    """Whether every string inside has a UTF-8 form, that is, no lone surrogate."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _from_json(value: bytes) -> dict[str, Any] | Rejection:
    try:
        text = value.decode()
        if text[0] == _BOM:
            text = text[1:]
        event = _scan(text)
        # only an escape can bring a surrogate in: strict UTF-8 has none
        whole = b"\\u" not in value or encodable(event)
    except UnicodeDecodeError as exc:
        return _foreign(value) or Rejection(ErrorCode.INVALID_UTF8, f"{exc.reason} at byte {exc.start}")
    except (ValueError, RecursionError) as exc:  # ValueError: bad JSON, NaN, an integer of thousands of digits
        return _foreign(value) or Rejection(ErrorCode.INVALID_JSON, quote(str(exc)))
    if not isinstance(event, dict):
        what = foreign_format.of_json(event) or f"a JSON {type(event).__name__}, not an object"
        return Rejection(ErrorCode.NOT_AN_OBJECT, what)
    if not whole:
        return Rejection(ErrorCode.INVALID_UTF8, "a string holds half a surrogate pair")
    return event


def _foreign(value: bytes) -> Rejection | None:
    what = foreign_format.of_bytes(value)
    return None if what is None else Rejection(ErrorCode.FOREIGN_FORMAT, what)


def _from_msgpack(value: bytes) -> dict[str, Any] | Rejection:
    try:
        event = msgpack.unpackb(value)
    except UnicodeDecodeError as exc:
        return Rejection(ErrorCode.INVALID_UTF8, f"{exc.reason} in a msgpack string")
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError, OverflowError) as exc:
        return Rejection(ErrorCode.INVALID_MSGPACK, quote(f"{type(exc).__name__}: {exc}"))
    if not all(isinstance(key, str) for key in event):
        return Rejection(ErrorCode.INVALID_MSGPACK, "a key of the map is not a string")
    return event  # type: ignore[no-any-return]


def _scan(text: str) -> Any:
    """`json.loads`, without its search for surrounding spaces where there are none: a fifth of ingest's time."""
    if text[:1] == "{" and text[-1] == "}":
        try:
            event, end = _DECODER.scan_once(text, 0)
        except StopIteration:  # how the scanner says that a value is missing; `decode` says where
            end = -1
        if end == len(text):
            return event
    return _DECODER.decode(text)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER: Any = json.JSONDecoder(parse_constant=_no_constant)
