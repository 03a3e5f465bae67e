"""One partition of the processor while it is ours: its token buffer, its log, and where it stands in `events`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from store.base.stop import Stop
from store.buffer.partition_buffers import PartitionBuffers
from store.buffer.token_buffer import TokenBuffer
from stream.kafka.client import Connection
from stream.kafka.pacing import SafeProducer
from stream.token_log.take_over import OwnedLog, take_over
from stream.topics import Topics


@dataclass(frozen=True, slots=True)
class PartitionConfig:
    """What all partitions of a processor share."""

    connection: Connection
    topics: Topics
    buffers: PartitionBuffers


@dataclass(slots=True)
class Partition:
    """Open and owned. sweep_left: expired rows remain that no event touches. opened_at: seconds, monotonic."""

    number: int
    buffer: TokenBuffer
    log: OwnedLog
    sweep_left: bool = True
    opened_at: float = field(default_factory=time.monotonic)

    def close(self) -> None:
        """Let the database go. What was not committed to it is read again by the next owner."""
        self.buffer.close()


def open_partition(
    config: PartitionConfig, number: int, buffer: TokenBuffer, producer: SafeProducer, stop: Stop
) -> Partition | None:
    """Restore what is left of the buffer's log and take ownership. Blocks. The buffer stays the caller's without it.

    Returns None if `stop` was set meanwhile.

    Raises:
        StateError: the log was made under another schema.
        DataLossError: `tokens` no longer begins where the buffer stopped.
        BrokerError: the broker failed.
    """
    taken = take_over(config.connection, config.topics.tokens, number, buffer, producer, stop=stop)
    return None if taken is None else Partition(number, buffer, taken[0])
