"""Ad-hoc queries on the worker: requests of `{prefix}.embed-requests`, answered from its replica of the users.

Requests live seconds, so nothing of them is kept: a partition is read from its end as of the assignment, nothing is
committed, and what is lost on the way is sent again or times out where it was asked (stream/serve/embed_client.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from confluent_kafka import OFFSET_END, KafkaException, TopicPartition
from numpy.typing import NDArray

from encoder.forward.user_encoder import Anchor
from encoder.worker.embed_queue import EmbedQueue, Waiting
from store.base import logs, metrics
from store.base.errors import WeightsError
from store.base.settings import ScenarioSettings
from store.records.embed_messages import SCENARIO, EmbedReply, EmbedRequest
from store.records.embedding import EmbeddingRecord
from store.window.user_window import UserWindow
from stream.kafka.client import Connection
from stream.kafka.consumer_errors import ConsumerErrors
from stream.reading.assigned_reader import AssignedReader
from stream.topics import Topics

log = logs.get(__name__)

MAX_WAITING = 256
"""Requests held here; the others wait on the broker."""
BATCH_USERS = 8
"""Users with one query computed at once: more would keep the others, and live refreshes, waiting longer."""
STEP_SECONDS = 0.1
"""No further batch begins after this long in one step: live refreshes are next."""
MAX_ANCHORS = 64
"""Cached; one has at most 64 query tokens and a soft prompt: compiled by `smollm2-135m` 3 MB, mostly a third of it."""
LIFETIME_MS = 10_000
"""Of a reply on its way: who asked does so again before, or waits no more."""
CLOSE_SECONDS = 1.0
"""How long the last replies may take to go out."""
WindowsOf = Callable[[int, str], UserWindow | None]
"""(partition, user id) → the user's window; None or an empty one = nothing is known of the user."""


class AnchorEncoder(Protocol):
    """What answers ad-hoc queries; `encoder.forward.user_encoder.UserEncoder` does."""

    def __hash__(self) -> int: ...  # a key of the anchors' cache

    def anchor(self, scenario: ScenarioSettings) -> Anchor: ...

    def encode_anchors(self, windows: Sequence[UserWindow], anchors: Sequence[Anchor]) -> NDArray[np.float32]: ...


class EmbedRequests:
    """Reads and answers requests of the worker's partitions. For the worker's thread.

    Replies are sent without waiting: one that cannot be delivered is counted and logged, and asked again by who waits.

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
        self._topics = topics
        self._wall_ms = wall_ms
        self._clock = clock
        self._partitions: set[int] = set()
        self._queue = EmbedQueue(BATCH_USERS)
        self._anchors = lru_cache(MAX_ANCHORS)(_anchor)
        group = f"{topics.embed_requests}.read"
        self._errors = ConsumerErrors(group)
        self._consumer = AssignedReader(connection, group, make=lambda: connection.exchange_consumer(group))
        self._producer = connection.exchange_producer(LIFETIME_MS, lambda error: self._lost(error.str()))

    def assigned(self, partitions: Sequence[int]) -> None:
        """Read these partitions too, from their ends."""
        new = [p for p in partitions if p not in self._partitions]
        if new:
            self._partitions.update(new)
            self._consumer.incremental_assign([TopicPartition(self._topics.embed_requests, p, OFFSET_END) for p in new])

    def revoked(self, partitions: Sequence[int]) -> None:
        """Leave these partitions, with what waits of them: their new owner is asked again."""
        gone = [p for p in partitions if p in self._partitions]
        if gone:
            self._partitions.difference_update(gone)
            self._queue.drop(gone)
            self._consumer.incremental_unassign([TopicPartition(self._topics.embed_requests, p) for p in gone])

    def answer(self, windows_of: WindowsOf, encoder: AnchorEncoder, usable: Collection[int]) -> int:
        """Answer what has arrived, for about STEP_SECONDS at most; does not wait for more.

        Args:
            usable: partitions whose replica has caught up with what others may have published; requests of the others
                are refused.

        Returns:
            How many requests still wait for the next call.
        """
        self._producer.poll(0)
        self._receive()
        started = self._clock()
        behind, expired = self._queue.take_others(usable, self._wall_ms())
        metrics.EMBED_REQUESTS.labels("expired").inc(expired)
        self._refuse(behind, "restoring", "the worker of this user is restoring its state; ask again")
        while self._queue:
            batch, expired = self._queue.next_batch(self._wall_ms())
            metrics.EMBED_REQUESTS.labels("expired").inc(expired)
            if batch:
                self._compute(batch, windows_of, encoder)
            if self._clock() - started >= STEP_SECONDS:
                break
        return len(self._queue)

    def forget_anchors(self) -> None:
        """Soft prompts of the encoder may have changed."""
        self._anchors.cache_clear()

    def close(self) -> None:
        """Send what was answered; drop what waits."""
        self._consumer.close()
        self._producer.flush(CLOSE_SECONDS)

    def _receive(self) -> None:
        room = MAX_WAITING - len(self._queue)
        for message in self._consumer.consume(room, 0) if room else ():
            if message.error() is not None:
                # whatever it is, live refreshes go on
                self._errors.passing(message.error(), what="read")
            elif message.partition() in self._partitions:
                self._take(message)

    def _take(self, message: Any) -> None:
        try:
            request = EmbedRequest.unpack(message.value() or b"")
            scenario = ScenarioSettings(query=request.query, prompt=request.prompt)
        except ValueError as exc:
            metrics.EMBED_REQUESTS.labels("unreadable").inc()
            log.warning(
                logs.EMBED_REQUEST_REFUSED,
                topic=message.topic(),
                partition=message.partition(),
                offset=message.offset(),
                detail=str(exc)[:200],
            )
            return
        self._queue.add(Waiting(message.partition(), request, scenario))

    def _compute(self, batch: Sequence[Waiting], windows_of: WindowsOf, encoder: AnchorEncoder) -> None:
        try:
            anchor = self._anchors(encoder, batch[0].scenario)
        except WeightsError as exc:
            log.warning(logs.EMBED_REQUEST_REFUSED, prompt=batch[0].scenario.prompt, detail=exc.detail)
            # what exactly is wrong names files of this machine
            self._refuse(batch, exc.code, f"the worker cannot use the soft prompt {batch[0].scenario.prompt!r}")
            return
        found = {user: windows_of(*user) for user in dict.fromkeys(one.user for one in batch)}
        known = {user: window for user, window in found.items() if window is not None and window.is_known}
        vectors = encoder.encode_anchors(list(known.values()), [anchor])[:, 0]
        records = self._records(known, anchor.id, vectors)
        for one in batch:
            record = records.get(one.user)
            if record is None:
                self._refuse([one], "user_unknown", f"nothing is known of user {one.request.user_id!r}")
            else:
                metrics.EMBED_REQUESTS.labels("answered").inc()
                self._send(EmbedReply(one.request.id, record))

    def _records(
        self, known: Mapping[tuple[int, str], UserWindow], model: str, vectors: NDArray[np.float32]
    ) -> dict[tuple[int, str], EmbeddingRecord]:
        computed_at = self._wall_ms()
        return {
            user: EmbeddingRecord(
                user_id=window.user_id,
                scenario=SCENARIO,
                model=model,
                as_of=window.as_of,
                ingested_at=window.ingested_at,
                computed_at=computed_at,
                vector=vector,
                covers=window.covers,
                events=window.events,
                newest_event=window.newest_event,
            )
            for (user, window), vector in zip(known.items(), vectors, strict=True)
        }

    def _refuse(self, batch: Sequence[Waiting], code: str, detail: str) -> None:
        for one in batch:
            metrics.EMBED_REQUESTS.labels(code).inc()
            self._send(EmbedReply(one.request.id, None, code, detail))

    def _send(self, reply: EmbedReply) -> None:
        try:
            self._producer.produce(self._topics.embed_replies, reply.pack(), partition=0)
        except (BufferError, KafkaException) as exc:
            self._lost(str(exc))

    def _lost(self, reason: str) -> None:
        metrics.EMBED_REPLIES_LOST.inc()
        log.warning(logs.EMBED_REPLY_LOST, topic=self._topics.embed_replies, error=reason)


def _anchor(encoder: AnchorEncoder, scenario: ScenarioSettings) -> Anchor:
    return encoder.anchor(scenario)
