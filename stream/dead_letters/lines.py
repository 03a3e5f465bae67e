"""What a script that mends dead letters reads and answers: JSON Lines, one each way for a letter. Pure.

It gets on standard input

    {"topic": …, "partition": …, "offset": …, "error": code, "detail": …, "key": …, "value": …, "event": {…} or null}

`key` and `value` are text where they are UTF-8, else null and in `key_base64`, `value_base64`; `event` is the decoded
map, where the value is one that JSON can show. It answers on standard output, in the same order:

    {"value": text or object}       replay this; an object is encoded as the letter was, JSON or msgpack
    {"value_base64": text}          the same in bytes
    {"skip": true, "reason": text}  leave the letter
"""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any, NamedTuple

import msgpack

from stream.dead_letters.read import RefusedEvent
from stream.events.decode import decode


class Answer(NamedTuple):
    """value: what to replay (None: the letter has none). skip: leave the letter, because of `reason`."""

    value: bytes | None
    skip: bool = False
    reason: str = ""


def letter_line(letter: RefusedEvent) -> bytes:
    """What the script gets, with the line's end."""
    event = None if letter.value is None else decode(letter.value, len(letter.value))
    line: dict[str, Any] = {
        "topic": letter.source_topic,
        "partition": letter.source_partition,
        "offset": letter.source_offset,
        "error": letter.error,
        "detail": letter.detail,
        **_as_text("key", letter.key),
        **_as_text("value", letter.value),
        "event": None,
    }
    if isinstance(event, dict):
        with contextlib.suppress(TypeError, ValueError, RecursionError):  # bytes, NaN or a depth that JSON has not
            return json.dumps({**line, "event": event}, allow_nan=False).encode() + b"\n"
    return json.dumps(line).encode() + b"\n"


def parse_answer(line: bytes, *, as_msgpack: bool) -> Answer:
    """Inverse for one answer. as_msgpack: how an object is to be encoded. Raises ValueError saying what is wrong."""
    try:
        answer = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"not a JSON line ({exc})") from exc
    if not isinstance(answer, dict) or len(answer.keys() & {"value", "value_base64", "skip"}) != 1:
        raise ValueError('not an object with one of "value", "value_base64" and "skip"')
    if "skip" in answer:
        if answer["skip"] is not True or not isinstance(answer.get("reason", ""), str):
            raise ValueError('"skip" must be true, and "reason" text')
        return Answer(None, True, answer.get("reason", ""))
    value = answer.get("value", answer.get("value_base64"))
    try:
        if isinstance(value, str):
            return Answer(value.encode() if "value" in answer else base64.b64decode(value, validate=True))
        if isinstance(value, dict) and "value" in answer:
            if as_msgpack:
                return Answer(msgpack.packb(value))
            return Answer(json.dumps(value, allow_nan=False, separators=(",", ":")).encode())
    except (ValueError, OverflowError, RecursionError) as exc:
        raise ValueError(f"its value cannot be encoded ({exc})") from exc
    raise ValueError('"value" must be text or an object, "value_base64" text')


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _as_text(name: str, data: bytes | None) -> dict[str, str | None]:
    if data is None:
        return {name: None}
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {name: None, f"{name}_base64": base64.b64encode(data).decode()}
