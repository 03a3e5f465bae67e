"""Producing without loss: a failed delivery is raised, and an embedded broker is never filled past its readers.

The embedded broker keeps the newest 5 MiB and 100 000 message sets of a partition and drops the oldest, read or not.
So on it a writer stays within a budget of what the slowest reader has committed. On Kafka `produce` is nearly the bare
one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from confluent_kafka import KafkaException

from store.base import logs
from store.base.errors import BrokerError
from stream.kafka import not_taken
from stream.kafka.client import Connection
from stream.kafka.reader_progress import MESSAGE_OVERHEAD_BYTES, PacedTopic
from stream.topics import TopicSpec

BUDGET_BYTES = 3 * 1024 * 1024
"""Unread uncompressed bytes of a partition: the broker's 5 MiB less one batch of 1 MB that is read in part, and slack.
With MESSAGE_OVERHEAD_BYTES for each it also bounds the messages: 31 457."""
PAUSE_LOG_SECONDS = 5.0
"""Waiting for readers is routine under load; it is reported once it lasts this long."""
_POLL_EVERY = 256
_WAIT_SECONDS = 0.01
_NOTE_SECONDS = 1.0
log = logs.get(__name__)

Delivery = Callable[[Any, Any], object]
"""Called with (KafkaError or None, message)."""


class SafeProducer:
    """A producer whose losses cannot be overlooked. For one thread.

    A delivery that failed stays remembered: every later `flush` and `check` raises, because what came after the lost
    message must not be taken for complete. Make a new producer to start over.

    Args:
        connection: the broker.
        specs: topics to be written; on an embedded broker their `readers` are waited for.
        while_waiting: called every few milliseconds while `produce` blocks, e.g. to poll a paused consumer; what it
            raises leaves `produce`, and the message is not sent.
        budget_bytes: see BUDGET_BYTES.
        config: librdkafka's producer settings, with dots.
    """

    def __init__(
        self,
        connection: Connection,
        specs: Iterable[TopicSpec] = (),
        *,
        while_waiting: Callable[[], object] | None = None,
        budget_bytes: int = BUDGET_BYTES,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self._connection = connection
        self._config = {"queue.buffering.max.kbytes": 65_536, **(config or {})}
        self._while_waiting = while_waiting
        self._failures = 0
        self._first_failure: tuple[str, int, Any] | None = None
        self._sent = 0
        self._reporting = False
        self._paced: dict[str, PacedTopic] = {}
        self.waiting_for = ""
        """The reader that `produce` has been waiting for, for more than a second; for `while_waiting`."""
        self._budget_bytes = budget_bytes
        self._admin = connection.admin() if connection.embedded else None
        self.add_topics(specs)
        self._open()

    def add_topics(self, specs: Iterable[TopicSpec]) -> None:
        """More topics are to be written. On an embedded broker their `readers` are waited for; they must exist."""
        for spec in specs if self._connection.embedded else ():
            if spec.name not in self._paced:
                if self._connection.keeper and not spec.ours:
                    spec = replace(spec, readers=(*spec.readers, self._connection.keeper))
                self._paced[spec.name] = PacedTopic(self._connection, self._admin, spec, self._budget_bytes)

    def _open(self) -> None:
        self._producer = self._connection.producer(
            **self._config,
            # a Python call per delivered message costs as much as producing it: by default only failures are reported
            **{"on_delivery": self._delivered, "delivery.report.only.error": not self._reporting},
        )
        self._send = self._producer.produce

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        partition: int = -1,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
        timestamp: int = 0,
        on_delivery: Delivery | None = None,
    ) -> None:
        """Queue one message; blocks while the queue is full, and on an embedded broker while readers are far behind.

        Args:
            partition: -1 = murmur2 of the key, or any if there is no key.
            timestamp: milliseconds; 0 = now.
            on_delivery: called from a later `produce`, `poll` or `flush`.

        Raises:
            BrokerError: an earlier delivery failed while this one waited, or the message can never be sent.
        """
        if self._paced and (paced := self._paced.get(topic)) is not None:
            size = MESSAGE_OVERHEAD_BYTES + (len(value) if value is not None else 0) + (len(key) if key else 0)
            if partition < 0:
                partition = paced.partition_of(key)
            if not paced.take(partition, size):
                self._wait_for_readers(paced, partition, size)
        callback = self._delivered if on_delivery is None else self._reported(on_delivery)
        try:
            self._send(topic, value, key, partition, callback, None, timestamp, headers)
        except BufferError:
            self._wait_for_queue(topic, value, key, partition, callback, timestamp, headers)
        except KafkaException as exc:
            raise self._refused(topic, exc) from exc
        self._sent += 1
        if not self._sent % _POLL_EVERY:
            self._producer.poll(0)

    def poll(self, timeout: float = 0.0) -> None:
        """Serve delivery callbacks for at most `timeout` seconds."""
        self._producer.poll(timeout)

    def check(self) -> None:
        """Raise if a delivery has failed so far; does not wait.

        Raises:
            BrokerError: a delivery failed.
        """
        self._producer.poll(0)
        if self._first_failure is not None:
            topic, partition, error = self._first_failure
            raise BrokerError(
                f"{self._failures} message(s) could not be delivered, first: {not_taken.why(topic, partition, error)}",
                action=not_taken.remedy(
                    topic,
                    error,
                    "check that the broker runs and takes writes to this topic; offsets were not committed, so a "
                    "restart sends the messages again",
                ),
                code="delivery_failed",
            )

    def flush(self, timeout: float = 60.0) -> None:
        """Wait until the broker has acknowledged everything produced so far.

        Raises:
            BrokerError: a delivery failed (now or earlier), or `timeout` seconds were not enough.
        """
        left = self._producer.flush(timeout)
        self.check()
        if left:
            raise BrokerError(
                f"{left} message(s) were not acknowledged within {timeout:g} s",
                action="check that the broker runs and is not overloaded",
                code="delivery_timeout",
            )

    def wait_kept(self, timeout: float = 60.0) -> None:
        """On an embedded broker that keeps what it is given: wait until all that was acknowledged is written down.

        Raises:
            BrokerError: `timeout` seconds were not enough.
        """
        group, deadline = self._connection.keeper, time.monotonic() + timeout
        while group and not all(paced.read_by(group) for paced in self._paced.values()):
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"what the embedded broker was given was not written down within {timeout:g} s",
                    action="see logs/broker.log in the data directory: is the disk full?",
                )
            time.sleep(_WAIT_SECONDS)

    def __len__(self) -> int:
        """Messages that are queued or unacknowledged."""
        return len(self._producer)

    def _delivered(self, error: Any, message: Any) -> None:
        if error is not None:
            self._failures += 1
            self._first_failure = self._first_failure or (message.topic(), message.partition(), error)

    def _reported(self, on_delivery: Delivery) -> Delivery:
        if not self._reporting:  # first use: go on with a producer that reports every delivery
            self.flush()
            self._reporting = True
            self._open()

        def both(error: Any, message: Any) -> None:
            self._delivered(error, message)
            on_delivery(error, message)

        return both

    def _wait_for_queue(self, *message: Any) -> None:
        topic, value, key, partition, callback, timestamp, headers = message
        while True:
            self._producer.poll(_WAIT_SECONDS)
            self.check()
            if self._while_waiting is not None:
                self._while_waiting()
            try:
                self._send(topic, value, key, partition, callback, None, timestamp, headers)
                return
            except BufferError:
                continue
            except KafkaException as exc:
                raise self._refused(topic, exc) from exc

    def _wait_for_readers(self, paced: PacedTopic, partition: int, size: int) -> None:
        started = time.monotonic()
        paused = False
        while True:
            # only what is acknowledged has an offset that readers' commits can be compared with
            delivered = self._producer.flush(_WAIT_SECONDS * 10) == 0
            self.check()
            if delivered and paced.refresh() and paced.take_after_refresh(partition, size):
                break
            if time.monotonic() - started > _NOTE_SECONDS:
                self.waiting_for = f"{paced.slowest(partition)} to read {paced.name}:{partition}"
            if not paused and time.monotonic() - started > PAUSE_LOG_SECONDS:
                paused = True
                log.warning(
                    logs.INPUT_PAUSED, topic=paced.name, partition=partition, waiting_for=paced.slowest(partition)
                )
            if self._while_waiting is not None:
                self._while_waiting()
            time.sleep(_WAIT_SECONDS)
        self.waiting_for = ""
        if paused:
            log.info(
                logs.INPUT_RESUMED,
                topic=paced.name,
                partition=partition,
                seconds=round(time.monotonic() - started, 1),
            )

    @staticmethod
    def _refused(topic: str, exc: KafkaException) -> BrokerError:
        return BrokerError(
            f"{topic}: the client refused the message: {exc.args[0].str()}",
            action="a message must fit message.max.bytes of producer and topic",
            code="message_refused",
        )
