"""A producer of which there is one at a time: messages and a group's offsets become visible together, or never.

Kafka's transactions. Who opens the producer of an id aborts what its predecessor has open, and the broker refuses from
then on whatever the predecessor sent before and may still arrive. One that opens late, after it has lost its partition
and the next owner has opened, is refused by the group's generation instead, which every commit names (KIP-447).
Readers see nothing of it as long as they are `read_committed`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from store.base.errors import BrokerError
from store.base.stop import Stop, obey
from stream.kafka import not_taken
from stream.kafka.client import Connection
from stream.kafka.patience import passes, within

OPEN_SECONDS = 30.0
"""For the answer when a producer is opened: a predecessor's transaction is ended first."""
COMMIT_SECONDS = 20.0
"""A transaction that is not committed within this is given up. Another client may get on at once: librdkafka may lose
sight of the coordinator when a broker is away for some seconds."""
OVERDUE_SECONDS = 5.0
"""A call that outlasts its time limit by this is left to itself: once librdkafka knows no broker, one takes a minute
and more, and the transaction is another client's by then."""
ABORT_SECONDS = 5.0
"""An abort spares readers the wait until the broker ends the transaction itself."""
TRANSACTION_TIMEOUT_MS = 60_000
"""Readers of its partitions wait so long for a member that died with a transaction open and has no successor."""
_STEP_SECONDS = 1.0
_QUEUE_SECONDS = 0.01
_CONFIG: dict[str, Any] = {
    "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
    "message.timeout.ms": TRANSACTION_TIMEOUT_MS,
    "queue.buffering.max.kbytes": 65_536,
    "linger.ms": 0,  # records go out while the offsets are sent; a batch gathers while its partitions are registered
    # a transaction that begins while the broker still marks the one before is tried again after this; default 100
    "retry.backoff.ms": 5,
}
_FENCED = frozenset(
    {
        KafkaError._FENCED,  # noqa: SLF001
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
        KafkaError.UNKNOWN_PRODUCER_ID,
        KafkaError.INVALID_TXN_STATE,
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
    }
)


class Aborted(Exception):
    """The transaction could not be committed, and nothing was refused for good: open another producer, try again."""


class Fenced(Aborted):
    """Somebody else has opened the producer's id, or the group has moved on: nothing of the transaction is seen."""


class FencedProducer:
    """One id's producer, for one thread at a time. After `Aborted` it is of no use: open another.

    Args:
        transactional_id: of what is written; all who may write the same use the same.
        stop: while the broker does not answer, this is obeyed.
        open_seconds, commit_seconds: for the broker to answer.
    """

    def __init__(
        self,
        connection: Connection,
        transactional_id: str,
        stop: Callable[[], Stop],
        *,
        open_seconds: float = OPEN_SECONDS,
        commit_seconds: float = COMMIT_SECONDS,
    ) -> None:
        self.transactional_id = transactional_id
        self._stop = stop
        self._open_seconds = open_seconds
        self._commit_seconds = commit_seconds
        self._producer = connection.producer(
            **_CONFIG,
            **{
                "transactional.id": transactional_id,
                "on_delivery": self._delivered,
                "delivery.report.only.error": True,
            },
        )
        self._begun = False
        self._gone = False
        self._failure: KafkaError | None = None
        self._undelivered: tuple[str, int, KafkaError] | None = None

    @property
    def begun(self) -> bool:
        """Whether something waits for a commit, or cannot be committed."""
        return self._begun or self._failure is not None

    def open(self) -> None:
        """Fence every other producer of this id.

        Raises:
            BrokerError: the broker refuses, or does not answer in time. Stopped.
        """
        try:
            self._patiently(self._producer.init_transactions, self._open_seconds)
        except KafkaException as exc:
            raise self._refused(exc.args[0]) from exc
        except Aborted as exc:
            raise self._refused(KafkaError(KafkaError._TIMED_OUT)) from exc  # noqa: SLF001

    def produce(self, topic: str, value: bytes | None, key: bytes, partition: int) -> None:
        """Queue a message for the next `commit`; blocks while the queue is full.

        Raises:
            BrokerError: the message can never be sent. Stopped.
        """
        if self._failure is not None:
            return  # `commit` tells
        try:
            if not self._begun:
                self._producer.begin_transaction()
                self._begun = True
            while True:
                try:
                    self._producer.produce(topic, value, key, partition)
                    return
                except BufferError:
                    obey(self._stop())
                    self._producer.poll(_QUEUE_SECONDS)
        except KafkaException as exc:
            self._failure = exc.args[0]
            if self._failure.code() not in _FENCED:
                raise self._refused(self._failure) from exc

    def commit(self, offsets: Sequence[Any] = (), member: Any = None) -> None:
        """Make what was produced, and these offsets, visible; on return they are durable, and soon seen.

        Args:
            offsets: TopicPartitions of a group. member: its consumer's `consumer_group_metadata()`.

        Raises:
            Fenced: nothing of it is seen. Aborted: the broker went away, or did not answer in time; who opens next
                knows what is seen.
            BrokerError: the broker refuses. Stopped.
        """
        deadline = time.monotonic() + self._commit_seconds
        try:
            if self._failure is not None:
                raise KafkaException(self._failure)
            if offsets:
                self._patiently(
                    lambda s: self._producer.send_offsets_to_transaction(offsets, member, s), self._commit_seconds
                )
            self._patiently(self._producer.commit_transaction, deadline - time.monotonic())
        except KafkaException as exc:
            error = self._failure = exc.args[0]
            between_calls = error.code() == KafkaError._STATE  # noqa: SLF001
            spoilt = between_calls or error.txn_requires_abort()
            if spoilt:
                self._abort()
            if error.code() in _FENCED:
                raise Fenced(error.str()) from exc
            if between_calls and self._undelivered is not None and not_taken.is_final(self._undelivered[2]):
                raise self._refused(error) from exc  # it spoilt the transaction while a call was under way
            if between_calls or (passes(error) and (spoilt or error.retriable())):
                raise Aborted(error.str()) from exc
            raise self._refused(error) from exc
        self._begun = False

    def close(self) -> None:
        """Release the client; what is not committed is never seen."""
        if self._begun and self._failure is None:
            self._abort()
        self._producer = None

    def _abort(self) -> None:
        """As far as it can be: who opens this id next does the same."""
        try:
            self._producer.purge()
            self._patiently(self._producer.abort_transaction, ABORT_SECONDS, obeying=False)
        except KafkaException as exc:
            self._failure = self._failure or exc.args[0]
        except Aborted:
            pass
        self._begun = False

    def _patiently(self, act: Callable[[float], object], seconds: float, *, obeying: bool = True) -> None:
        """act(timeout) is called again while it takes time: librdkafka goes on where it was."""
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            try:
                self._call(partial(act, max(_QUEUE_SECONDS, min(_STEP_SECONDS, left))), max(_STEP_SECONDS, left))
                return
            except KafkaException as exc:
                # of a transaction's call librdkafka tells; what only passes may have spoilt the transaction
                if not exc.args[0].retriable() or left <= 0:
                    raise
            if obeying:
                obey(self._stop())

    def _call(self, act: Callable[[], object], seconds: float) -> None:
        """Raises Aborted: librdkafka keeps neither to its time limit nor to ours, so this client is lost."""
        if self._gone or not within(seconds + OVERDUE_SECONDS, act, "transaction"):
            self._gone = True
            self._failure = self._failure or KafkaError(KafkaError._TIMED_OUT)  # noqa: SLF001
            raise Aborted(f"no answer from the client of {self.transactional_id}: it has lost sight of the broker")

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        # what follows the first was purged for its sake
        if error is not None and self._undelivered is None:
            self._undelivered = message.topic(), message.partition(), error

    def _refused(self, error: KafkaError) -> BrokerError:
        if passes(error):
            return BrokerError(
                f"the transaction of {self.transactional_id} was not acknowledged in time: {error.str()}",
                action="check that the broker runs and is not overloaded",
                code="delivery_timeout",
            )
        topic, partition, cause = self._undelivered or ("", 0, error)
        of = not_taken.why(topic, partition, cause) if topic else error.str()
        return BrokerError(
            f"the broker refused what {self.transactional_id} publishes: {of}",
            action=not_taken.remedy(
                topic or "these topics",
                cause,
                "check that the broker takes writes to these topics, and lets this user use transactional ids that "
                "begin with kafka.topic_prefix; nothing was committed, so a restart sends the messages again",
            ),
            code="delivery_failed",
        )
