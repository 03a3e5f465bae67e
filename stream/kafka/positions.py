"""Positions that the broker can still serve. Reading on from anywhere else would skip messages in silence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from store.base.errors import DataLossError

RESETTABLE = ("ingest", "processor", "worker", "freshness")
"""Readers whose committed offset says where they go on; serve's own commits only tell its lag."""
REBUILD = (
    "this log is no longer whole, so nothing can be rebuilt from it: start over with another kafka.topic_prefix and "
    "store.data_dir, and replay the source"
)
"""What is left where a log that is read whole has lost its beginning, or was made anew."""


def reset_command(group: str, *, every: bool = False) -> str:
    """The remedy for positions of a group of ours that cannot be served; its name ends with its reader's.

    every: the offsets alone do not show that they cannot be.
    """
    command = f"anchorstream offsets reset {group.rpartition('.')[2]} --to earliest{' --all' if every else ''}"
    return (
        "bring the messages back (replay their source); or accept the loss, with every member stopped: "
        f"`{command}` (--dry-run says what is lost); to keep messages longer raise the topic's retention.ms"
    )


def check_position(consumer: Any, tp: TopicPartition, offset: int, *, remedy: str, timeout_s: float = 10.0) -> None:
    """Make sure that everything from `offset` on is still there.

    Args:
        consumer: any consumer; need not be assigned `tp`.
        offset: next offset to be read.
        remedy: what a person can do, see `reset_command`.

    Raises:
        DataLossError: it lies below the low watermark, or beyond the end (the topic was made anew).
        confluent_kafka.KafkaException: the broker did not answer.
    """
    low, high = consumer.get_watermark_offsets(TopicPartition(tp.topic, tp.partition), timeout=timeout_s, cached=False)
    where = f"{tp.topic}:{tp.partition}"
    if offset < low:
        raise DataLossError(
            f"{where}: next offset to read is {offset}, the broker's oldest is {low}: "
            f"{low - offset} message(s) were removed unread",
            action=remedy,
        )
    if offset > high:
        raise DataLossError(
            f"{where}: next offset to read is {offset}, but the topic ends at {high}: it was deleted and made anew, "
            "or the broker lost its disk",
            action=remedy,
        )


def first_offset(consumer: Any, tp: TopicPartition, *, timeout_s: float = 10.0) -> int:
    """Offset of the first message from `tp.offset` on; there must be one. Assigns the consumer.

    Raises:
        confluent_kafka.KafkaException: the broker did not answer.
    """
    consumer.assign([tp])
    message = consumer.poll(timeout_s)
    if message is None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
    if message.error() is not None:
        raise KafkaException(message.error())
    return int(message.offset())


def resume_positions(
    consumer: Any,
    partitions: Sequence[TopicPartition],
    *,
    from_zero: bool = False,
    group: str,
    counts: Callable[[TopicPartition], bool] = lambda _: True,
    timeout_s: float = 10.0,
) -> list[TopicPartition]:
    """Committed positions of just assigned partitions, each checked; for `consumer.assign` or `incremental_assign`.

    A partition without a commit starts at the oldest message there is: that is a new reader, not a loss. With
    `from_zero` it starts at 0 and must find it: for logs read whole, and for every reader on an embedded broker, which
    removes messages by size only. A commit that does not count, which its metadata tells, is as none. `group` is the
    consumer's.

    Raises:
        DataLossError: a committed position cannot be served.
        confluent_kafka.KafkaException: the broker did not answer.
    """
    resumed = []
    for tp in consumer.committed([TopicPartition(p.topic, p.partition) for p in partitions], timeout=timeout_s):
        if tp.error is not None:
            raise KafkaException(tp.error)  # a KafkaError itself cannot be caught as an exception
        offset = tp.offset if counts(tp) else -1
        if offset < 0 and not from_zero:
            offset = consumer.get_watermark_offsets(tp, timeout=timeout_s, cached=False)[0]
        else:
            offset = max(offset, 0)
            check_position(consumer, tp, offset, remedy=reset_command(group), timeout_s=timeout_s)
        resumed.append(TopicPartition(tp.topic, tp.partition, offset))
    return resumed
