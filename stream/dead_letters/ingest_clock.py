"""Ingest's clocks as it committed them: read to judge letters by, and forgotten where they are wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import KafkaException, TopicPartition

from store.base.errors import BrokerError
from store.base.settings import ModalitySettings
from stream.clock import ClockState, EventClock, Source, read_clock
from stream.kafka.client import Connection
from stream.settings import Clock, IngestSettings

_TIMEOUT_SECONDS = 10.0


def read_clocks(
    connection: Connection,
    group: str,
    settings: IngestSettings,
    modalities: Mapping[str, ModalitySettings],
    sources: Sequence[Source],
) -> EventClock:
    """The clocks of these raw partitions. Where one has none yet, everything fits. Raises BrokerError."""
    clock = EventClock.of(settings, modalities, lenient=True)
    if settings.clock is Clock.STREAM and sources:
        with _group(connection, group, "cannot be read") as consumer:
            for tp in consumer.committed([TopicPartition(*s) for s in sources], timeout=_TIMEOUT_SECONDS):
                clock.restore((tp.topic, tp.partition), read_clock(tp.metadata))
    return clock


def forget_clocks(connection: Connection, group: str, sources: Sequence[Source]) -> int:
    """Let the clocks of these raw partitions begin anew with what ingest reads next; offsets stay. Returns how many.

    Only while no ingest runs: the broker takes commits of members alone, and theirs would bring the clock back.

    Raises:
        BrokerError: the broker cannot be reached, or ingest runs.
    """
    if not sources:
        return 0
    with _group(connection, group, "cannot be changed: is ingest still running?") as consumer:
        found = consumer.committed([TopicPartition(*s) for s in sources], timeout=_TIMEOUT_SECONDS)
        with_clock = [tp for tp in found if tp.offset >= 0 and read_clock(tp.metadata) != ClockState()]
        if with_clock:
            offsets = [TopicPartition(tp.topic, tp.partition, tp.offset) for tp in with_clock]
            for tp in consumer.commit(offsets=offsets, asynchronous=False):
                if tp.error is not None:
                    raise KafkaException(tp.error)
    return len(with_clock)


@contextmanager
def _group(connection: Connection, group: str, fails: str) -> Iterator[Any]:
    consumer: Any = connection.consumer(group)
    try:
        yield consumer
    except KafkaException as exc:
        raise BrokerError(
            f"the committed offsets of {group} {fails}: {exc.args[0].str()}",
            action="stop ingest if they are to change; else check that the broker runs (`anchorstream doctor`) and lets"
            " this user read the group",
        ) from exc
    finally:
        consumer.close()
