"""The form of a dead letter: original key and bytes, and headers that say why and where from.

`DeadLetterHeaders` spells them, for who writes and who reads. A record of the topic with the header `replayed` is no
letter but says which were sent again (stream/dead_letters/replay_marks.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from stream.rejection import MAX_DETAIL_CHARS, Rejection

MAX_VALUE_BYTES = 15 * 1024 * 1024
"""Longer values are cut to this. Above any default broker's limit (1 MiB); see MAX_MESSAGE_BYTES."""
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""`max.message.bytes` of the topic, `message.max.bytes` of its producer."""


REPLAYED = "replayed"


class DeadLetterHeaders(NamedTuple):
    """A field is a header of its name, UTF-8; one that is None or empty is left out.

    error: a code of stream/rejection.py. source_*: where the raw message lay. truncated: the value's original length in
    bytes, only where it was too long to be carried whole.
    """

    error: str
    detail: str = ""
    source_topic: str | None = None
    source_partition: int | None = None
    source_offset: int | None = None
    truncated: int | None = None

    def encode(self) -> list[tuple[str, bytes]]:
        """As Kafka takes them."""
        return [(name, str(value).encode()) for name, value in self._asdict().items() if value not in (None, "")]

    @classmethod
    def decode(cls, headers: Iterable[tuple[str, bytes | None]] | None) -> DeadLetterHeaders:
        """Never raises: what a foreign producer left out or wrote otherwise becomes "unknown", empty or None."""
        found = {name: (value or b"").decode("utf-8", "replace") for name, value in headers or ()}

        def number(name: str) -> int | None:
            text = found.get(name, "")
            return int(text) if len(text) < 20 and text.isascii() and text.isdigit() else None

        return cls(
            found.get("error") or "unknown",
            found.get("detail", ""),
            found.get("source_topic") or None,
            number("source_partition"),
            number("source_offset"),
            number("truncated"),
        )


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
    truncated = None
    if value is not None and len(value) > max_value_bytes:
        value, truncated = value[:max_value_bytes], len(value)
    detail = rejection.detail[:MAX_DETAIL_CHARS]
    headers = DeadLetterHeaders(rejection.code.value, detail, topic, partition, offset, truncated)
    return DeadLetter(key, value, headers.encode())
