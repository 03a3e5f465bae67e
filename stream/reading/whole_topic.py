"""Everything a topic holds, from the oldest to the end as of now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from confluent_kafka import KafkaException, TopicPartition

from store.base.errors import BrokerError, NotFoundError
from stream.kafka.client import Connection

_SILENCE_SECONDS = 10.0
_PROGRESS_EVERY = 500


class Span(NamedTuple):
    """Of one partition, offsets `begin` to `end` (not included)."""

    partition: int
    begin: int
    end: int


class WholeTopic:
    """Reads one topic; a context manager. Committed messages only.

    Args:
        client: a name for the broker's log; its group is never joined.

    Raises:
        NotFoundError: on entering: there is no such topic. BrokerError: the broker stopped answering.
    """

    def __init__(self, connection: Connection, topic: str, client: str) -> None:
        self._connection = connection
        self._topic = topic
        self._consumer = connection.reader(client)

    def __enter__(self) -> WholeTopic:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def spans(self, within: Mapping[int, tuple[int, int]] | None = None) -> list[Span]:
        """What there is to read; partitions that are empty are left out.

        Args:
            within: partition → (first offset, end): just these. A part that is no longer there is passed over.
        """
        with self._asking():
            spans = []
            for partition in self._partitions():
                if within is not None and partition not in within:
                    continue
                tp = TopicPartition(self._topic, partition)
                low, high = self._consumer.get_watermark_offsets(tp, timeout=_SILENCE_SECONDS)
                if within is not None:
                    low, high = max(low, within[partition][0]), min(high, within[partition][1])
                if low < high:
                    spans.append(Span(partition, low, high))
            return spans

    def messages(
        self, spans: Sequence[Span], on_progress: Callable[[int, int], object] = lambda _done, _all: None
    ) -> Iterator[Any]:
        """Their messages, in offset order within a partition.

        Args:
            on_progress: called with (messages read, messages there are), now and then and at the end.
        """
        total = sum(span.end - span.begin for span in spans)
        with self._asking():
            for done, message in enumerate(self._read(spans), start=1):
                if done % _PROGRESS_EVERY == 0:
                    on_progress(done, total)
                yield message
        on_progress(total, total)

    def _asking(self) -> _Asking:
        return _Asking(self._connection, self._topic)

    def _partitions(self) -> list[int]:
        # all topics, not this one: asking by name may create it
        found = self._consumer.list_topics(timeout=_SILENCE_SECONDS).topics.get(self._topic)
        if found is None or found.error is not None:
            raise NotFoundError(
                f"there is no topic {self._topic} on {self._connection.bootstrap}",
                action="check kafka.topic_prefix; `anchorstream up` creates it",
            )
        return sorted(found.partitions)

    def _read(self, spans: Sequence[Span]) -> Iterator[Any]:
        consumer = self._consumer
        consumer.assign([TopicPartition(self._topic, span.partition, span.begin) for span in spans])
        ends = {span.partition: span.end for span in spans}
        deadline = time.monotonic() + _SILENCE_SECONDS
        while ends:
            message = consumer.poll(0.2)
            if message is not None:
                if message.error() is not None:
                    raise KafkaException(message.error())
                deadline = time.monotonic() + _SILENCE_SECONDS
                end = ends.get(message.partition(), 0)
                if message.offset() < end:
                    yield message
                if message.offset() >= end - 1:
                    ends.pop(message.partition(), None)
                continue
            # the last offsets before the end can be transaction markers, which are never delivered
            for at in consumer.position([TopicPartition(self._topic, partition) for partition in ends]):
                if at.offset >= ends[at.partition]:
                    del ends[at.partition]
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"{self._topic}: nothing came for {_SILENCE_SECONDS:g} s; ends not reached: {ends}",
                    action="check the broker, then try again",
                )


class _Asking:
    """The client's errors as ours."""

    def __init__(self, connection: Connection, topic: str) -> None:
        self._connection, self._topic = connection, topic

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, exc: BaseException | None, _: object) -> None:
        if isinstance(exc, KafkaException):
            raise BrokerError(
                f"the broker at {self._connection.bootstrap} does not give {self._topic}: {exc.args[0].str()}",
                action="check that it runs (`anchorstream doctor`) and lets this user read the topic",
            ) from exc
