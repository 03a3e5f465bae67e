"""One partition of the processor while it is ours: its token buffer, its log, and where it stands in `events`."""

from __future__ import annotations

from dataclasses import dataclass

from store.base.stop import Stop
from store.buffer.partition_buffers import PartitionBuffers
from store.buffer.token_buffer import TokenBuffer
from stream.kafka.client import Connection
from stream.kafka.pacing import SafeProducer
from stream.token_log.standby import Standby
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
    """Open and owned. sweep_left: expired rows remain that no event touches."""

    number: int
    buffer: TokenBuffer
    log: OwnedLog
    sweep_left: bool = True

    def close(self) -> None:
        """Let the database go. What was not committed to it is read again by the next owner."""
        self.buffer.close()


def open_partition(
    config: PartitionConfig,
    number: int,
    producer: SafeProducer,
    stop: Stop,
    standby: Standby | None = None,
) -> Partition | None:
    """Open the buffer, or take it from the standby, restore it from `tokens` and take ownership. Blocks.

    Returns None if `stop` was set meanwhile.

    Raises:
        StateError: the directory belongs to another format, encoder or broker.
        DataLossError: `tokens` no longer begins where the buffer stopped.
        BrokerError: the broker failed.
    """
    buffer = (standby.take(number) if standby is not None else None) or config.buffers.open(number)
    try:
        taken = take_over(config.connection, config.topics.tokens, number, buffer, producer, stop=stop)
    except BaseException:
        buffer.close()
        raise
    if taken is None:
        if standby is not None:
            standby.give(number, buffer)
        else:
            buffer.close()
        return None
    return Partition(number, buffer, taken[0])
