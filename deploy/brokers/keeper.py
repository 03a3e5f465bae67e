"""Keeps what an embedded broker is given beyond its process: a log on disk, given to the next one when it starts.

Two threads. The *feeder* produces what the log holds, in its order, at the pace at which ingest reads. The *recorder*
reads the topics from their beginning and appends every message that is not one of the feeder's: within a partition
they come in the order in which they were fed. What others send meanwhile comes after all that was kept.

The recorder commits what is in the file, as a group of its own, which writers on this broker stay within reach of.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaException, TopicPartition

from deploy.brokers.kept_log import KeptLog, KeptMessage
from store.base import disk, logs
from store.base.errors import AnchorstreamError
from store.base.stop import Stopped
from stream.kafka.client import Connection
from stream.kafka.pacing import SafeProducer
from stream.kafka.patience import passes
from stream.topics import TopicSpec

GROUP = "anchorstream.kept"
SYNC_SECONDS = 1.0
DRAIN_SECONDS = 10.0
_BATCH = 1000
_WAIT_SECONDS = 0.1
log = logs.get(__name__)


class Keeper:
    """Of one broker process. `start`, then `stop` when nobody sends any more.

    Args:
        connection: to the broker, which is empty.
        specs: the topics that are kept; all have partitions. readers: whom the feeder waits for.
        on_restored: called once all that was kept has been given back.
    """

    def __init__(
        self,
        connection: Connection,
        kept: KeptLog,
        specs: Mapping[str, TopicSpec],
        on_restored: Callable[[], object],
    ) -> None:
        self._connection = connection
        self._kept = kept
        self._specs = specs
        self._on_restored = on_restored
        self._history = kept.count
        self._fed: dict[tuple[str, int], deque[KeptMessage]] = defaultdict(deque)
        self._stop = threading.Event()
        self._ending = threading.Event()
        self._failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._guard, args=(act,), name=act.__name__.strip("_"), daemon=True)
            for act in (self._feed, self._record)
        ]

    @property
    def failed(self) -> bool:
        """Whether something cannot be kept: the broker must end rather than take what would be lost."""
        return self._failure is not None

    @property
    def failure(self) -> BaseException | None:
        """Why."""
        return self._failure

    def start(self) -> None:
        """Begin to feed and to record."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Record what has been sent so far, then end."""
        self._ending.set()
        for thread in self._threads:
            thread.join(DRAIN_SECONDS)
        self._stop.set()
        try:
            self._kept.close()
        except OSError as exc:
            self._failure = self._failure or disk.refused(exc, self._kept.path) or exc

    def _guard(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Stopped:
            pass
        except BaseException as exc:
            self._failure = refused = disk.refused(exc, self._kept.path) or exc
            if isinstance(refused, AnchorstreamError):
                what = {"error": refused.code, "detail": refused.detail, "action": refused.action}
                log.error(logs.BROKER_KEEPS_NOTHING, path=str(self._kept.path), **what)
            else:
                log.exception(logs.BROKER_KEEPS_NOTHING, path=str(self._kept.path))

    def _feed(self) -> None:
        def go_on() -> None:
            if self._ending.is_set():
                raise Stopped

        if self._history:
            log.info(logs.BROKER_RESTORING, messages=self._history, path=str(self._kept.path))
            producer = SafeProducer(self._connection, self._specs.values(), while_waiting=go_on)
            for number, message in enumerate(self._kept):
                if number == self._history:
                    break
                go_on()
                spec = self._specs.get(message.topic)
                if spec is None or message.partition >= spec.partitions:
                    continue  # no longer configured: it stays in the file
                self._fed[message.topic, message.partition].append(message)
                topic, partition, timestamp, key, value, headers = message
                producer.produce(topic, value, key, partition, list(headers) or None, timestamp)
            producer.flush()
            log.info(logs.BROKER_RESTORED, messages=self._history)
        self._on_restored()

    def _record(self) -> None:
        consumer = self._connection.consumer(GROUP, **{"auto.offset.reset": "error"})
        places = [TopicPartition(spec.name, p, 0) for spec in self._specs.values() for p in range(spec.partitions)]
        consumer.assign(places)
        synced = time.monotonic()
        next_offsets: dict[tuple[str, int], int] = {}
        while True:
            ending = self._ending.is_set() and not self._threads[0].is_alive()
            batch = consumer.consume(_BATCH, _WAIT_SECONDS)
            for message in batch:
                place = message.topic(), message.partition()
                if message.error() is None:
                    self._take(place, message)
                    next_offsets[place] = message.offset() + 1
                elif not passes(message.error()):
                    raise KafkaException(message.error())
            self._kept.flush()
            if next_offsets and self._commit(consumer, next_offsets):
                next_offsets.clear()
            if time.monotonic() - synced > SYNC_SECONDS:
                self._kept.sync()
                synced = time.monotonic()
            if ending and self._caught_up(consumer, places):
                break
            if self._stop.is_set():
                break
        consumer.close()

    @staticmethod
    def _commit(consumer: Any, next_offsets: Mapping[tuple[str, int], int]) -> bool:
        try:
            offsets = [TopicPartition(*place, offset) for place, offset in next_offsets.items()]
            consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as exc:
            if not passes(exc.args[0]):
                raise
            return False
        return True

    def _caught_up(self, consumer: Any, places: list[Any]) -> bool:
        positions = consumer.position([TopicPartition(p.topic, p.partition) for p in places])
        return all(
            max(at.offset, 0) >= consumer.get_watermark_offsets(at, timeout=_WAIT_SECONDS * 20, cached=False)[1]
            for at in positions
        )

    def _take(self, place: tuple[str, int], message: Any) -> None:
        """Append it, unless it is the feeder's next."""
        found = KeptMessage(
            *place,
            message.timestamp()[1],
            message.key(),
            message.value(),
            tuple((name, value) for name, value in message.headers() or ()),
        )
        fed = self._fed.get(place)
        if fed and fed[0] == found:
            fed.popleft()
        else:
            self._kept.append(found)
