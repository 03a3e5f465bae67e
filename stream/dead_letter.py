"""The form of a dead letter: original key and bytes, and headers that say why and where from.

Headers: `error` (a code of stream/rejection.py), `detail`, `source_topic`, `source_partition`, `source_offset`, all
UTF-8; `truncated` = original length in bytes, only where the value was too long to be carried whole.
"""

from __future__ import annotations

from typing import NamedTuple

from stream.rejection import MAX_DETAIL_CHARS, Rejection

MAX_VALUE_BYTES = 15 * 1024 * 1024
"""Longer values are cut to this. Above any default broker's limit (1 MiB); see MAX_MESSAGE_BYTES."""
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""`max.message.bytes` of the topic, `message.max.bytes` of its producer."""


class DeadLetter(NamedTuple):
    """What is sent to `dead-letters`."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


def dead_letter(
    rejection: Rejection,
    key: bytes | None,
    value: bytes | None,
    topic: str,
    partition: int,
    offset: int,
    *,
    max_value_bytes: int = MAX_VALUE_BYTES,
) -> DeadLetter:
    """Wrap one refused message; `topic`, `partition`, `offset` say where it lay."""
    headers = [
        ("error", rejection.code.encode()),
        ("detail", rejection.detail[:MAX_DETAIL_CHARS].encode()),
        ("source_topic", topic.encode()),
        ("source_partition", str(partition).encode()),
        ("source_offset", str(offset).encode()),
    ]
    if value is not None and len(value) > max_value_bytes:
        headers.append(("truncated", str(len(value)).encode()))
        value = value[:max_value_bytes]
    return DeadLetter(key, value, headers)
