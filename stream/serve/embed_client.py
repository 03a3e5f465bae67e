"""serve's side of ad-hoc queries: a request to the partition of its user, the worker's reply matched by id.

Replies are read from the end as of the start, before the first request is sent, so that none of ours is missed. A
request without a reply is sent once more after half of its time: its partition may have gone to another worker, which
reads only what comes after. Answers are idempotent; the first one counts. Clocks of serve and worker must agree to
within the timeouts asked for: workers drop requests that have expired.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, NamedTuple

from confluent_kafka import KafkaException, TopicPartition

from store.base import logs
from store.base.errors import BrokerError
from store.records.embed_messages import EmbedReply, EmbedRequest
from stream.kafka.client import Connection
from stream.kafka.consumer_errors import ConsumerErrors
from stream.kafka.partitioner import partition_of
from stream.kafka.patience import patiently
from stream.reading.assigned_reader import AssignedReader
from stream.topics import Topics

MAX_IN_FLIGHT = 256
"""Requests of one serve that wait for a reply; more are refused as `busy`."""
TICK_SECONDS = 0.05
"""How exactly times are kept: when requests are sent again, and given up."""
LIFETIME_MS = 60_000
"""Of a request on its way: the longest that anybody waits."""
log = logs.get(__name__)


class EmbedClient:
    """Sends requests and hands out replies. `run` blocks, on a thread of its own; `ask` is for any thread.

    Args:
        wall_ms: milliseconds since the epoch. clock: seconds, monotonic.
    """

    def __init__(
        self,
        connection: Connection,
        topics: Topics,
        *,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._topics = topics
        self._wall_ms = wall_ms
        self._clock = clock
        self._errors = ConsumerErrors(f"{topics.embed_replies}.read")
        self._lock = threading.Lock()
        self._waiting: dict[str, _Waiting] = {}
        self._producer: Any = None  # None: replies are not read

    def ask(self, user_id: str, query: str, prompt: str | None, timeout_ms: int) -> Future[EmbedReply]:
        """The reply of the user's worker, or an error of our own: not_ready, busy, embed_unsent, embed_timeout.

        Does not block and does not raise. A future that is cancelled keeps its place until its time is up.
        """
        name = uuid.uuid4().hex
        request = EmbedRequest(name, user_id, query, prompt, expires_at=self._wall_ms() + timeout_ms)
        now, seconds = self._clock(), timeout_ms / 1000
        partition = partition_of(user_id, self._topics.partitions)
        future: Future[EmbedReply] = Future()
        one = _Waiting(future, request.pack(), partition, now + seconds / 2, now + seconds, timeout_ms)
        with self._lock:
            producer = self._producer
            if producer is None:
                return _ended(future, EmbedReply(name, None, "not_ready", "serve is starting or stopping"))
            if len(self._waiting) >= MAX_IN_FLIGHT:
                detail = f"{MAX_IN_FLIGHT} queries are waiting for an answer; ask again in a moment"
                return _ended(future, EmbedReply(name, None, "busy", detail))
            self._waiting[name] = one
        if refusal := self._send(producer, one):
            self._end(EmbedReply(name, None, "embed_unsent", refusal))
        return future

    def run(self, stop: threading.Event) -> None:
        """Read replies until `stop`; what still waits then ends as `not_ready`.

        Raises:
            BrokerError: the broker refuses us, or did not answer at the start.
        """
        with ExitStack() as closing:
            group = f"{self._topics.embed_replies}.read"
            consumer = AssignedReader(self._connection, group, make=lambda: self._connection.exchange_consumer(group))
            closing.callback(consumer.close)
            if not self._start(consumer, stop):
                return
            producer = self._connection.exchange_producer(LIFETIME_MS, lambda error: self._lost(error.str()))
            closing.callback(self._close)
            with self._lock:
                self._producer = producer
            while not stop.is_set():
                message = consumer.poll(TICK_SECONDS)
                if message is not None:
                    self._received(message)
                producer.poll(0)
                self._keep_time(producer)

    def _start(self, consumer: Any, stop: threading.Event) -> bool:
        replies = TopicPartition(self._topics.embed_replies, 0)
        try:
            _, end = patiently(lambda: consumer.get_watermark_offsets(replies, timeout=10.0, cached=False), stop)
        except KafkaException as exc:
            if stop.is_set():
                return False
            raise BrokerError(
                f"the broker at {self._connection.bootstrap} did not tell the end of {replies.topic}: "
                f"{exc.args[0].str()}",
                action="check that it runs (`anchorstream doctor`); serve starts again by itself under `up`",
            ) from exc
        consumer.assign([TopicPartition(replies.topic, 0, end)])
        return True

    def _received(self, message: Any) -> None:
        if message.error() is not None:
            self._errors.judge(message)
            return
        try:
            reply = EmbedReply.unpack(message.value() or b"")
        except ValueError as exc:
            detail = str(exc)[:200]
            log.warning(logs.EMBED_REPLY_REFUSED, topic=message.topic(), offset=message.offset(), detail=detail)
            return
        self._end(reply)  # without effect if it is another service's, or late

    def _keep_time(self, producer: Any) -> None:
        now = self._clock()
        late, again = [], []
        with self._lock:
            for name, one in self._waiting.items():
                if now >= one.give_up_at:
                    late.append((name, one))
                elif now >= one.resend_at:
                    again.append(name)
            for name in again:
                self._waiting[name] = self._waiting[name]._replace(resend_at=float("inf"))
            resent = [self._waiting[name] for name in again]
        for name, one in late:
            detail = f"no worker answered within {one.timeout_ms} ms; `anchorstream lag` tells whether one is at work"
            self._end(EmbedReply(name, None, "embed_timeout", detail))
        for one in resent:
            if refusal := self._send(producer, one):
                self._lost(refusal)

    def _send(self, producer: Any, one: _Waiting) -> str:
        """Queue a request; returns why it cannot be, or nothing."""
        try:
            producer.produce(self._topics.embed_requests, one.value, partition=one.partition)
        except (BufferError, KafkaException) as exc:
            return str(exc)
        return ""

    def _end(self, reply: EmbedReply) -> None:
        with self._lock:
            one = self._waiting.pop(reply.id, None)
        if one is not None:
            _ended(one.future, reply)

    def _close(self) -> None:
        with self._lock:
            self._producer = None
            names = list(self._waiting)
        for name in names:
            self._end(EmbedReply(name, None, "not_ready", "serve is stopping"))

    def _lost(self, reason: str) -> None:
        log.warning(logs.EMBED_REQUEST_LOST, topic=self._topics.embed_requests, error=reason)


class _Waiting(NamedTuple):
    """A request without a reply yet. resend_at, give_up_at: by the clock, seconds."""

    future: Future[EmbedReply]
    value: bytes
    partition: int
    resend_at: float
    give_up_at: float
    timeout_ms: int


def _ended(future: Future[EmbedReply], reply: EmbedReply) -> Future[EmbedReply]:
    if future.set_running_or_notify_cancel():  # False: nobody waits any more
        future.set_result(reply)
    return future
