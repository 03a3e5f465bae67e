"""As much of a raw Kafka message as is judged."""

from __future__ import annotations

from typing import NamedTuple


class RawMessage(NamedTuple):
    """Written at `produced_at`, ms."""

    in_topic: str
    in_partition: int
    at: int
    content: bytes | None
    produced_at: int = 0
    with_headers: tuple[tuple[str, bytes], ...] = ()
    with_key: bytes | None = None

    def topic(self) -> str:
        """Raw topic."""
        return self.in_topic

    def partition(self) -> int:
        """Its partition."""
        return self.in_partition

    def offset(self) -> int:
        """Place in the partition."""
        return self.at

    def value(self) -> bytes | None:
        """The event's bytes."""
        return self.content

    def key(self) -> bytes | None:
        """None where there is none."""
        return self.with_key

    def headers(self) -> list[tuple[str, bytes]] | None:
        """None where there are none."""
        return list(self.with_headers) or None

    def timestamp(self) -> tuple[int, int]:
        """As confluent-kafka has it: CREATE_TIME and milliseconds."""
        return 1, self.produced_at
