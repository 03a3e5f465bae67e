"""The form of a dead letter: original key, bytes, time stamp and headers, and headers that say why and where from.

`DeadLetterHeaders` spells ours, for who writes and who reads; the message's own follow them as `source.NAME`. A record
of the topic with the header `replayed` is no letter but says which were sent again (dead_letters/replay_marks.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stream.rejection import MAX_DETAIL_CHARS, Rejection

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Default of `kafka.dead_letter_max_bytes`: a letter's size in all, and `max.message.bytes` of the topic."""
MAX_KEY_BYTES = 64 * 1024
MAX_HEADER_BYTES = 64 * 1024
"""Of the message's own headers in all; a longer one and those after it are left out."""
RESERVED_BYTES = 256 * 1024
"""Of a letter, for all that is not its value."""

REPLAYED = "replayed"
NO_PARTITION = -1
"""In place of a raw partition, of what `replay` had no raw topic for."""
SOURCE_HEADER = "source."

Headers = Sequence[tuple[str, bytes | None]]


class DeadLetterHeaders(NamedTuple):
    """A field is a header of its name, UTF-8; one that is None or empty is left out.

    error: a code of stream/rejection.py. source_*: where the raw message lay; source_timestamp: its producer's or the
    broker's, epoch ms, as it said. truncated, key_truncated: the value's and the key's original length in bytes, only
    where it was too long to be carried whole. headers_left_out: how many of the message's own were too long.
    source_name: the topic in derived ids, where it is not `source_topic` (stream/raw_topics/registry.py).
    """

    error: str
    detail: str = ""
    source_topic: str | None = None
    source_partition: int | None = None
    source_offset: int | None = None
    truncated: int | None = None
    source_timestamp: int | None = None
    key_truncated: int | None = None
    headers_left_out: int | None = None
    source_name: str | None = None

    def encode(self) -> list[tuple[str, bytes]]:
        """As Kafka takes them."""
        return [(name, str(value).encode()) for name, value in self._asdict().items() if value not in (None, "")]

    @classmethod
    def decode(cls, headers: Iterable[tuple[str, bytes | None]] | None) -> DeadLetterHeaders:
        """Never raises: what a foreign producer left out or wrote otherwise becomes "unknown", empty or None."""
        found = {name: (value or b"").decode("utf-8", "replace") for name, value in headers or ()}

        def number(name: str, sign: str = "") -> int | None:
            text = found.get(name, "")
            digits = text.removeprefix(sign)
            return int(text) if len(text) < 20 and digits.isascii() and digits.isdigit() else None

        return cls(
            found.get("error") or "unknown",
            found.get("detail", ""),
            found.get("source_topic") or None,
            number("source_partition"),
            number("source_offset"),
            number("truncated"),
            number("source_timestamp", "-"),
            number("key_truncated"),
            number("headers_left_out"),
            found.get("source_name") or None,
        )


class DeadLetter(NamedTuple):
    """What is sent to `dead-letters`."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def dead_letter(
    rejection: Rejection,
    key: bytes | None,
    value: bytes | None,
    topic: str,
    partition: int,
    offset: int,
    *,
    timestamp: int | None = None,
    headers: Headers | None = None,
    max_bytes: int = MAX_MESSAGE_BYTES,
    source_name: str | None = None,
) -> DeadLetter:
    """Wrap one refused message.

    Args:
        topic, partition, offset: where it lay.
        timestamp: the message's, epoch ms; None = it has none.
        headers: the message's own.
        max_bytes: of the whole letter; key, headers and value are cut to fit.
        source_name: what the topic is called in derived ids.
    """
    truncated = key_truncated = None
    if value is not None and len(value) > max_bytes - RESERVED_BYTES:
        value, truncated = value[: max_bytes - RESERVED_BYTES], len(value)
    if key is not None and len(key) > MAX_KEY_BYTES:
        key, key_truncated = key[:MAX_KEY_BYTES], len(key)
    carried, room = [], MAX_HEADER_BYTES
    for name, content in headers or ():
        room -= len(name.encode()) + len(content or b"")
        if room < 0:
            break
        carried.append((SOURCE_HEADER + name, content))
    left_out = len(headers or ()) - len(carried)
    said = DeadLetterHeaders(
        rejection.code.value,
        rejection.detail[:MAX_DETAIL_CHARS],
        topic,
        partition,
        offset,
        truncated,
        timestamp,
        key_truncated,
        left_out or None,
        source_name if source_name != topic else None,
    )
    return DeadLetter(key, value, [*said.encode(), *carried])


def source_headers(headers: Iterable[tuple[str, bytes | None]] | None) -> list[tuple[str, bytes | None]]:
    """The refused message's own headers, of those of its letter: in order, names that come twice included."""
    return [
        (name.removeprefix(SOURCE_HEADER), value) for name, value in headers or () if name.startswith(SOURCE_HEADER)
    ]
