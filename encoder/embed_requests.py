"""Ad-hoc queries on the worker: requests of `{prefix}.embed-requests`, answered from its replica of the users.

Requests live seconds, so nothing of them is kept: a partition is read from its end as of the assignment, nothing is
committed, and what is lost on the way is sent again or times out where it was asked (stream/embed_client.py).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from confluent_kafka import OFFSET_END, KafkaException, TopicPartition
from numpy.typing import NDArray

from encoder.user_encoder import Anchor
from store import logs, metrics
from store.embed_messages import SCENARIO, EmbedReply, EmbedRequest
from store.embedding_record import EmbeddingRecord
from store.errors import WeightsError
from store.settings import ScenarioSettings
from store.window import UserWindow
from stream.client import Connection
from stream.consumer_errors import ConsumerErrors
from stream.topics import Topics

log = logs.get(__name__)

MAX_WAITING = 256
"""Requests held here; the others wait on the broker."""
BATCH_USERS = 8
"""Users with one query computed at once: more would keep the others, and live refreshes, waiting longer."""
STEP_SECONDS = 0.1
"""No further batch begins after this long in one step: live refreshes are next."""
MAX_ANCHORS = 256
"""Cached; one has at most 64 query tokens and a soft prompt, 0.3 MB at the hidden size of `qwen2.5-0.5b`."""
EMBEDDED_FETCH_MS = 10
"""An embedded broker answers an empty fetch only when its time is up, even if a message comes meanwhile."""
CLOSE_SECONDS = 1.0
"""How long the last replies may take to go out."""
WindowsOf = Callable[[int, str], UserWindow | None]
"""(partition, user id) → the user's window; None or an empty one = nothing is known of the user."""


class AnchorEncoder(Protocol):
    """What answers ad-hoc queries; `encoder.user_encoder.UserEncoder` does."""

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
        self._waiting: dict[str, _Waiting] = {}
        self._anchors = AnchorCache(MAX_ANCHORS)
        group = f"{topics.embed_requests}.read"
        self._errors = ConsumerErrors(group)
        fetching: dict[str, Any] = {"fetch.wait.max.ms": EMBEDDED_FETCH_MS} if connection.embedded else {}
        self._consumer = connection.consumer(group, **{"auto.offset.reset": "latest"}, **fetching)
        self._producer = connection.producer(
            **{
                "linger.ms": 0,
                "enable.idempotence": False,  # a reply that comes twice harms nobody
                "message.timeout.ms": 10_000,
                "on_delivery": self._delivered,
                "delivery.report.only.error": True,
            }
        )

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
            self._waiting = {name: one for name, one in self._waiting.items() if one.partition not in gone}
            self._consumer.incremental_unassign([TopicPartition(self._topics.embed_requests, p) for p in gone])

    def answer(self, windows_of: WindowsOf, encoder: AnchorEncoder, behind: bool) -> int:
        """Answer what has arrived, for about STEP_SECONDS at most; does not wait for more.

        Args:
            behind: the replica has not caught up with what others may have published: every request is refused.

        Returns:
            How many requests still wait for the next call.
        """
        self._producer.poll(0)
        self._receive()
        if behind:
            waiting, self._waiting = self._waiting, {}
            for one in waiting.values():
                self._refuse(one.request, "restoring", "the worker of this user is restoring its state; ask again")
            return 0
        started = self._clock()
        while self._waiting:
            self._answer(self._next_batch(), windows_of, encoder)
            if self._clock() - started >= STEP_SECONDS:
                break
        return len(self._waiting)

    def close(self) -> None:
        """Send what was answered; drop what waits."""
        self._consumer.close()
        self._producer.flush(CLOSE_SECONDS)

    def _receive(self) -> None:
        room = MAX_WAITING - len(self._waiting)
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
        self._waiting[request.id] = _Waiting(message.partition(), request, scenario)

    def _next_batch(self) -> list[_Waiting]:
        """Takes out the oldest request and others with its query, those that nobody waits for left out."""
        now = self._wall_ms()
        expired = [name for name, one in self._waiting.items() if one.request.expires_at <= now]
        for name in expired:
            del self._waiting[name]
        metrics.EMBED_REQUESTS.labels("expired").inc(len(expired))
        batch: list[_Waiting] = []
        users: set[tuple[int, str]] = set()
        for one in self._waiting.values():
            if batch and one.scenario != batch[0].scenario:
                continue
            if one.user not in users and len(users) == BATCH_USERS:
                break
            users.add(one.user)
            batch.append(one)
        for one in batch:
            del self._waiting[one.request.id]
        return batch

    def _answer(self, batch: Sequence[_Waiting], windows_of: WindowsOf, encoder: AnchorEncoder) -> None:
        if not batch:
            return
        try:
            anchor = self._anchors.get(batch[0].scenario, encoder)
        except WeightsError as exc:
            for one in batch:
                self._refuse(one.request, exc.code, exc.detail)
            return
        found = {user: windows_of(*user) for user in dict.fromkeys(one.user for one in batch)}
        known = {user: window for user, window in found.items() if window is not None and window.modalities}
        vectors = encoder.encode_anchors(list(known.values()), [anchor])[:, 0]
        records = self._records(known, anchor.id, vectors)
        for one in batch:
            record = records.get(one.user)
            if record is None:
                self._refuse(one.request, "user_unknown", f"nothing is known of user {one.request.user_id!r}")
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
            )
            for (user, window), vector in zip(known.items(), vectors, strict=True)
        }

    def _refuse(self, request: EmbedRequest, code: str, detail: str) -> None:
        metrics.EMBED_REQUESTS.labels(code).inc()
        self._send(EmbedReply(request.id, None, code, detail))

    def _send(self, reply: EmbedReply) -> None:
        try:
            self._producer.produce(self._topics.embed_replies, reply.pack(), partition=0)
        except (BufferError, KafkaException) as exc:
            self._lost(str(exc))

    def _delivered(self, error: Any, _: Any) -> None:
        if error is not None:
            self._lost(error.str())

    def _lost(self, reason: str) -> None:
        metrics.EMBED_REPLIES_LOST.inc()
        log.warning(logs.EMBED_REPLY_LOST, topic=self._topics.embed_replies, error=reason)


class AnchorCache:
    """Anchors of the queries asked last. One encoder's: prompts are taken not to change while it runs."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._anchors: OrderedDict[tuple[str, str | None], Anchor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._anchors)

    def get(self, scenario: ScenarioSettings, encoder: AnchorEncoder) -> Anchor:
        """The anchor, made by `encoder` if it is not here. Raises WeightsError: the soft prompt is missing."""
        key = (scenario.query, scenario.prompt)
        anchor = self._anchors.pop(key, None) or encoder.anchor(scenario)
        self._anchors[key] = anchor
        if len(self._anchors) > self._size:
            self._anchors.popitem(last=False)
        return anchor


class _Waiting(NamedTuple):
    """A request that has not been answered."""

    partition: int
    request: EmbedRequest
    scenario: ScenarioSettings

    @property
    def user(self) -> tuple[int, str]:
        return self.partition, self.request.user_id
