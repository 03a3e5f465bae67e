"""The worker: applies `tokens` to its replica of the buffer, refreshes dirty users, publishes `embeddings.*`.

Protocol (the same numbers in the body and in docs/commit-protocol.md):
  W1. Rows, dirty marks and the `tokens` offset become durable in one WriteBatch.
  W2. Embeddings of a batch of dirty users are computed from the replica.
  W3. They are produced, and every delivery is awaited.
  W4. The users' dirty marks are cleared, unless a newer summary has arrived meanwhile.
  W5. The lowest offset still dirty (or the read position) is committed to Kafka. Reading goes on at the offset of W1;
      the commit tells lag, and a new owner of the partition what needs no refresh.
A crash before W4 leaves the marks: the users are refreshed again, to equal embeddings.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from numpy.typing import NDArray

from encoder.publisher import Publisher
from encoder.scheduler import RefreshBatch, RefreshScheduler
from encoder.settings import ModelSettings
from store import fault, logs, metrics
from store.buffer_resources import BufferResources
from store.settings import ModalitySettings, StoreSettings
from store.token_buffer import TokenBuffer
from store.window import UserWindow
from stream.client import Connection
from stream.pacing import SafeProducer
from stream.partitioner import partition_of
from stream.rebalance import Rebalance
from stream.token_log import LogReader
from stream.topics import Topics

log = logs.get(__name__)

POLL_ROWS = 5000
IDLE_SECONDS = 0.02
"""How long to wait for rows when nobody is due: the price of an update's first step."""
COMMIT_SECONDS = 0.25
_COMMIT_LATER = {KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID}


class Encoder(Protocol):
    """What the worker needs of `encoder.user_encoder.UserEncoder`."""

    @property
    def scenarios(self) -> list[str]: ...

    def model_id(self, scenario: str) -> str: ...

    def tokens_of(self, scenarios: Sequence[str]) -> int: ...

    def encode(self, windows: Sequence[UserWindow], scenarios: Sequence[str]) -> NDArray[np.float32]: ...


class Worker:
    """One worker process. `run` blocks; everything happens on its thread.

    Args:
        text_encoder_id, event_dim: of the vectors in `tokens`.
        state: directory of this worker's buffers, one per partition.
        on_ready: called once, when the first partitions are assigned.
        wall: seconds since the epoch.
    """

    def __init__(
        self,
        connection: Connection,
        topics: Topics,
        modalities: Mapping[str, ModalitySettings],
        encoder: Encoder,
        *,
        model: ModelSettings,
        store: StoreSettings,
        state: Path,
        text_encoder_id: str,
        event_dim: int,
        expiry_granularity_ms: int,
        on_ready: Callable[[], None] = lambda: None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._connection = connection
        self._topics = topics
        self._modalities = modalities
        self._encoder = encoder
        self._scenarios = sorted(encoder.scenarios)
        self._state = state
        self._text_encoder_id = text_encoder_id
        self._event_dim = event_dim
        self._granularity = expiry_granularity_ms
        self._resources = BufferResources.of(store)
        self._on_ready = on_ready
        self._ready = False
        self._scheduler = RefreshScheduler(
            tail_tokens=encoder.tokens_of(self._scenarios),
            batch_tokens=model.batch_tokens,
            min_interval_ms=model.min_interval_ms,
            max_staleness_ms=model.max_staleness_ms,
            max_user_tokens=sum(m.max_events for m in modalities.values()),
        )
        self._paused = False
        self._models = _digest({s: encoder.model_id(s) for s in self._scenarios})
        specs = [s for s in topics.specs(modalities, self._scenarios) if s.name.startswith(f"{topics.prefix}.emb")]
        self._stop = threading.Event()
        producer = SafeProducer(connection, specs, while_waiting=self._leave_if_stopped)
        self._publisher = Publisher(producer, topics, encoder.model_id, lambda: int(wall() * 1000))
        self._consumer: Any = None
        self._reader: LogReader = LogReader(None, topics.tokens)
        self._committed: dict[int, int] = {}
        self._restoring: dict[int, int] = {}
        self._rebalance = Rebalance("worker")
        self._committed_at = 0.0
        self._polled_at = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        """Work until `stop`; then commit and close.

        Raises:
            BrokerError: embeddings were not acknowledged. KafkaException: the broker failed for good.
            DataLossError, StateError: the replica cannot be continued.
        """
        self._stop = stop
        self._consumer = self._connection.consumer(
            # a position that is lost while reading must not be skipped in silence
            self._topics.group_worker,
            **{"auto.offset.reset": "error"},
        )
        self._reader = LogReader(self._consumer, self._topics.tokens)
        self._consumer.subscribe(
            [self._topics.tokens], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )
        try:
            while not stop.is_set():
                self._step()
        except _Stopped:
            pass  # between W2 and W4: the dirty marks stay
        finally:
            log.info(logs.ROLE_STOPPING)
            self._release(list(self._reader.buffers), commit=True)
            self._consumer.close()

    def _leave_if_stopped(self) -> None:
        if self._stop.is_set():
            raise _Stopped

    def _step(self) -> None:
        batch = None if self._behind() else self._scheduler.next_batch(_now_ms())
        self._poll(0.0 if batch else IDLE_SECONDS)
        if isinstance(batch, RefreshBatch):
            self._refresh(batch)
        self._pause_or_resume()
        self._commit()

    def _behind(self) -> bool:
        """Whether a replica has not yet read what was in the log when it was assigned.

        Another member may have published embeddings from there, and older ones must not follow them.
        """
        for partition, end in list(self._restoring.items()):
            buffer = self._reader.buffers.get(partition)
            if buffer is None or buffer.log_offset >= end:
                del self._restoring[partition]
                if buffer is not None:
                    self._rebalance.usable(partition)
        return bool(self._restoring)

    def _poll(self, seconds: float) -> None:
        """W1."""
        polled = self._reader.poll(POLL_ROWS, seconds)
        self._polled_at = time.monotonic()
        now_ms = _now_ms()
        for user in polled.live:
            self._scheduler.mark(user, now_ms)
        for user in polled.swept:
            self._scheduler.mark_low(user, now_ms)

    def _pause_or_resume(self) -> None:
        """While refreshes fall behind, rows wait on the broker: lag shows it, and nothing grows here."""
        now_ms = _now_ms()
        # behind, nobody is refreshed until the rest has been read
        paused = self._scheduler.should_pause(now_ms) and not self._behind()
        self._scheduler.pending(now_ms)
        if paused is not self._paused:
            self._paused = paused
            assigned = [TopicPartition(self._topics.tokens, p) for p in self._reader.buffers]
            (self._consumer.pause if paused else self._consumer.resume)(assigned)
            log.debug(logs.INPUT_PAUSED if paused else logs.INPUT_RESUMED, topic=self._topics.tokens)

    def _refresh(self, batch: RefreshBatch) -> None:
        started = time.monotonic()
        by_partition: dict[int, list[str]] = {}
        for user in batch.users:
            by_partition.setdefault(partition_of(user, self._topics.partitions), []).append(user)
        # a partition that was revoked since is its new owner's
        parts = [
            _Part(partition, self._reader.buffers[partition], users)
            for partition, users in by_partition.items()
            if partition in self._reader.buffers
        ]
        # W2
        windows = [window for part in parts for window in part.known]
        vectors = self._encoder.encode(windows, self._scenarios)
        computed = time.monotonic()
        fault.point("worker.2")
        self._make_sure_of_ownership()
        # W3
        at = 0
        for part in parts:
            of_part = vectors[at : at + len(part.known)]
            at += len(part.known)
            if self._reader.buffers.get(part.partition) is not part.buffer:
                continue
            self._publisher.publish(part.partition, part.known, self._scenarios, of_part)
            self._publisher.erase(part.partition, part.gone, self._scenarios)
        self._publisher.flush()
        fault.point("worker.3")
        # W4
        for part in parts:
            if self._reader.buffers.get(part.partition) is part.buffer:
                part.buffer.clear_dirty(part.users, upto=part.upto)
        fault.point("worker.4")
        self._scheduler.done(batch, computed - started, _now_ms())
        metrics.REFRESHED_USERS.inc(len(windows))
        metrics.REFRESH_SECONDS.observe(time.monotonic() - started)
        log.debug(logs.USERS_REFRESHED, users=len(windows), seconds=round(time.monotonic() - started, 3))

    def _make_sure_of_ownership(self) -> None:
        """Hear of lost partitions before publishing. A process that was stopped (SIGSTOP) may have lost
        them; their new owner's embeddings must not be followed by older ones."""
        if time.monotonic() - self._polled_at > self._connection.session_timeout_ms / 2000:
            # long enough for the group coordinator to answer a heartbeat
            self._poll(self._connection.heartbeat_interval_ms / 1000)

    def _commit(self) -> None:
        """W5."""
        now = time.monotonic()
        if now - self._committed_at >= COMMIT_SECONDS:
            self._committed_at = now
            self._commit_positions(list(self._reader.buffers))

    def _commit_positions(self, partitions: Sequence[int]) -> None:
        offsets = []
        for partition in partitions:
            buffer = self._reader.buffers[partition]
            oldest = buffer.oldest_dirty_offset()
            position = buffer.log_offset if oldest is None else oldest
            if position != self._committed.get(partition):
                self._committed[partition] = position
                offsets.append(TopicPartition(self._topics.tokens, partition, position, self._models))
        if not offsets:
            return
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as exc:
            if exc.args[0].code() not in _COMMIT_LATER and not exc.args[0].retriable():
                raise
            for tp in offsets:
                self._committed.pop(tp.partition, None)

    # Partitions come and go

    def _assigned(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        away = round(self._rebalance.given(), 3)
        asked = [TopicPartition(tp.topic, tp.partition) for tp in partitions]
        positions = []
        for tp in consumer.committed(asked, timeout=30):
            buffer = TokenBuffer.open(
                self._state / str(tp.partition),
                modalities=self._modalities,
                encoder_id=self._text_encoder_id,
                dim=self._event_dim,
                identity=self._connection.identity,
                expiry_granularity_ms=self._granularity,
                resources=self._resources,
                replica=True,
            )
            # what is below the committed offset was published, but perhaps by other models
            published = tp.offset if tp.offset >= 0 and tp.metadata == self._models else 0
            positions.append(self._reader.add(tp.partition, buffer, mark_from=published))
            tp = TopicPartition(tp.topic, tp.partition)
            self._restoring[tp.partition] = consumer.get_watermark_offsets(tp, timeout=30, cached=False)[1]
            if published:
                self._committed[tp.partition] = published
                # marks from before another member had the partition
                buffer.clear_dirty([user.user_id for user in buffer.dirty()], upto=published)
            elif buffer.log_offset:
                buffer.mark_dirty(buffer.users(), sweep=True)
                log.info(logs.BACK_FILL_STARTED, partition=tp.partition, users=buffer.dirty_count)
            now_ms = _now_ms()
            for user in buffer.dirty():
                (self._scheduler.mark_low if user.mark.sweep else self._scheduler.mark)(user.user_id, now_ms)
        consumer.assign(positions)
        consumer.resume(positions)  # librdkafka keeps a partition paused over its next assignment
        self._paused = False
        log.info(logs.PARTITIONS_ASSIGNED, partitions=[tp.partition for tp in partitions], seconds=away)
        if not self._ready:
            self._ready = True
            self._on_ready()

    def _revoked(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        self._release([tp.partition for tp in partitions], commit=True)

    def _lost(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        self._release([tp.partition for tp in partitions], commit=False)

    def _release(self, partitions: Sequence[int], *, commit: bool) -> None:
        self._rebalance.lost()
        if commit:
            self._commit_positions([p for p in partitions if p in self._reader.buffers])
        for partition in partitions:
            self._committed.pop(partition, None)
            buffer = self._reader.remove(partition)
            if buffer is not None:
                for user in buffer.dirty():
                    self._scheduler.remove(user.user_id)
                buffer.close()
        log.info(logs.PARTITIONS_REVOKED, partitions=list(partitions))


class _Stopped(Exception):
    """Told to stop while the producer waits for its readers."""


class _Part:
    """Users of one partition in a refresh. known: their windows; gone: users of whom nothing is left."""

    def __init__(self, partition: int, buffer: TokenBuffer, users: list[str]) -> None:
        self.partition, self.buffer, self.users = partition, buffer, users
        self.upto = buffer.log_offset
        windows = [buffer.window(user) for user in users]
        self.known = [window for window in windows if window.modalities]
        self.gone = [window.user_id for window in windows if not window.modalities]


def _now_ms() -> int:
    return int(time.monotonic() * 1000)


def _digest(models: Mapping[str, str]) -> str:
    """Commit metadata: which models' embeddings are published below a committed offset."""
    text = "\n".join(f"{scenario}={model}" for scenario, model in sorted(models.items()))
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
