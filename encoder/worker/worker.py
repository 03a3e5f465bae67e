"""The worker: applies `tokens` to its replica of the buffer, refreshes dirty users, publishes `embeddings.*`.

Protocol (the same numbers in the body and in docs/commit-protocol.md):
  W0. Partitions are given: former owners are fenced, before the committed offset and the log's end are read.
  W1. Rows, dirty marks and the `tokens` offset become durable in one WriteBatch.
  W2. Embeddings of a batch of dirty users are computed from the replica.
  W3. They are produced and, with the offset that W4 leaves, committed: one transaction per partition
      (`transactions.py`). On an embedded broker, which has one worker: acknowledged.
  W4. The users' dirty marks are cleared, unless a newer summary has arrived meanwhile.
  W5. Where W3 did not: the lowest offset still dirty (or the read position) is committed to Kafka. Reading goes on at
      the offset of W1; the commit tells lag, and a new owner of the partition what needs no refresh.
A crash before W3's commit leaves nothing of it; before W4 the marks: they are cleared up to the committed offset.
Partitions are independent: of one that is still being read nothing is published, and the others' users are refreshed.
A partition whose transaction is refused is fenced: its users stay dirty. If the group takes it away, it is another's;
else it is renewed: its producer opened and its committed position read again.
Scenarios that come or change are back-filled beside it, by B1 to B5 of encoder/worker/back_fill.py; silent users are
embedded again as time passes, by T1 to T4 of encoder/worker/silence_rounds.py.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from confluent_kafka import TopicPartition

from encoder.worker.assignment import Assignment, Assignments
from encoder.worker.back_fill_reports import BackFillReports
from encoder.worker.live_scenarios import LiveScenarios
from encoder.worker.publisher import Publisher
from encoder.worker.scheduler import BackFillTurn, Pending, RefreshBatch, RefreshScheduler, TickTurn
from encoder.worker.transactions import Position, writers
from store.base import fault, logs, metrics, pulse
from store.base.errors import BrokerError
from store.base.stop import Stopped
from store.buffer.partition_buffers import PartitionBuffers
from store.buffer.token_buffer import TokenBuffer
from store.window.silence import SilenceTicks
from store.window.user_window import UserWindow
from stream.commit_metadata import Waiting
from stream.kafka.client import Connection
from stream.kafka.membership import Membership, leave
from stream.kafka.partitioner import partition_of
from stream.kafka.topic_ids import TopicIds
from stream.token_log.catch_up import CatchUp
from stream.token_log.restore import same_log
from stream.topics import Topics

log = logs.get(__name__)

POLL_ROWS = 5000
IDLE_SECONDS = 0.02
"""How long to wait for rows when nobody is due: the price of an update's first step."""
COMMIT_SECONDS = 0.25
RENEWALS = 10
"""Of a partition in a row, each after the group could have spoken; then the worker gives up."""


class Requests(Protocol):
    """Who answers for users at once, beside the refreshes (`embed_requests.py`); on the worker's thread."""

    def assigned(self, partitions: Sequence[int]) -> None: ...

    def revoked(self, partitions: Sequence[int]) -> None: ...

    def answer(
        self, windows_of: Callable[[int, str], UserWindow | None], encoder: Any, usable: Collection[int]
    ) -> int: ...

    def forget_anchors(self) -> None: ...

    def close(self) -> None: ...


class Worker:
    """One worker process. `run` blocks; everything happens on its thread.

    Args:
        buffers: where the replicas lie; of this worker alone.
        scenarios: what is computed, and by which encoder; read here, and closed at the end.
        scheduler: who is refreshed next; empty.
        ticks: when users who are silent are embedded again.
        requests: asked once per step, before anybody is refreshed. Closed at the end.
        on_ready: called once, when the first partitions are assigned.
        wall: seconds since the epoch.
    """

    def __init__(
        self,
        connection: Connection,
        topics: Topics,
        buffers: PartitionBuffers,
        scenarios: LiveScenarios,
        scheduler: RefreshScheduler,
        *,
        ticks: SilenceTicks,
        requests: Requests | None = None,
        on_ready: Callable[[], None] = lambda: None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._connection = connection
        self._topics = topics
        self._buffers = buffers
        self._scenarios = scenarios
        self._encoder = scenarios.encoder
        self._scheduler = scheduler
        self._ticks = ticks
        self._requests = requests
        self._on_ready = on_ready
        self._ready = False
        self._paused: set[int] = set()
        self._stop = threading.Event()
        specs = [topics.embeddings_spec(name) for name in self._encoder.scenarios]
        self._writers = writers(connection, topics, specs, lambda: self._stop)
        self._publisher = Publisher(self._writers, topics, lambda: int(wall() * 1000))
        self._reports = BackFillReports(self._writers, topics, scenarios, lambda: int(wall() * 1000))
        self._consumer: Any = None
        self._topic_ids = TopicIds(connection)
        self._membership = Membership(connection, topics.group_worker)
        self._mine = self._assignments(None)
        self._committed_at = 0.0
        self._renewals: Counter[int] = Counter()

    def run(self, stop: threading.Event) -> None:
        """Work until `stop`; then commit and close.

        Raises:
            BrokerError: embeddings were not acknowledged. KafkaException: the broker failed for good.
            DataLossError, StateError: the replica cannot be continued.
        """
        self._stop = stop
        # a position that is lost while reading must not be skipped in silence
        consumer = self._connection.consumer(self._topics.group_worker, **{"auto.offset.reset": "error"})
        try:
            self._attach(consumer)
            consumer.subscribe(
                [self._topics.tokens], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
            )
            while not stop.is_set():
                pulse.beat()
                self._step()
                self._membership.look(consumer)
        except Stopped:
            pass  # between W2 and W4: the dirty marks stay
        finally:
            log.info(logs.ROLE_STOPPING)
            self._detach()

    def _attach(self, consumer: Any) -> None:
        """Take the group's consumer, and read which scenarios there are."""
        self._consumer = consumer
        self._mine = self._assignments(consumer)
        self._scenarios.load(self._stop)
        self._rescope()

    def _assignments(self, consumer: Any) -> Assignments:
        tokens = self._topics.tokens
        return Assignments(consumer, CatchUp(self._connection, tokens), tokens, self._open_buffer, self._ticks)

    def _detach(self) -> None:
        self._release([assignment.partition for assignment in self._mine], commit=True)
        leave(self._consumer)
        self._scenarios.close()
        if self._requests is not None:
            self._requests.close()

    def _step(self) -> None:
        if self._scenarios.poll():
            self._rescope()
        for assignment in self._mine.advance():
            self._schedule(assignment)
        asked = 0
        if self._requests is not None:
            asked = self._requests.answer(self._window_of, self._encoder, self._mine.usable)
        self._pass_time()
        batch = self._next_batch() if self._mine.ready else None
        busy = bool(batch or asked)
        rows = self._poll(0.0 if busy or self._mine.catch_up else IDLE_SECONDS)
        if isinstance(batch, RefreshBatch):
            self._refresh(batch)
        elif isinstance(batch, TickTurn):
            self._tick(batch)
        elif batch is not None:
            self._back_fill(batch)
        if busy or not rows:  # else their users are next
            self._catch_up(0.0 if busy else IDLE_SECONDS)
        self._pause_or_resume()
        self._commit()
        self._report()
        self._renew()

    def _pass_time(self) -> None:
        """T1. Before anybody is computed who was held while the input was behind."""
        now_ms = _now_ms()
        for assignment in self._mine:
            if assignment.usable and not self._scheduler.behind(assignment.partition, now_ms):
                assignment.silence.move()

    def _next_batch(self) -> RefreshBatch | BackFillTurn | TickTurn | None:
        ready = [assignment for assignment in self._mine if assignment.ready]
        return self._scheduler.next_batch(
            _now_ms(),
            back_fill=any(assignment.back_fill.waiting for assignment in ready),
            ticks=any(assignment.silence.waiting for assignment in ready),
        )

    def _rescope(self) -> None:
        """The scenarios have changed, or were read for the first time."""
        if registered := self._scenarios.registered:
            self._writers.add_topics([self._topics.embeddings_spec(name) for name in registered])
        if self._requests is not None:
            self._requests.forget_anchors()  # a soft prompt may have been swapped
        self._scheduler.tail_tokens = self._encoder.tokens_of(self._scenarios.names)
        for assignment in self._mine:
            assignment.back_fill.retarget(self._scenarios.targets)

    def _poll(self, seconds: float) -> int:
        """W1. The scheduler knows users of usable partitions; others are marked on disk, and `_schedule`d later.

        Returns:
            How many rows have come.
        """
        polled = self._mine.reader.poll(POLL_ROWS, seconds)
        now_ms, usable, number_of = _now_ms(), self._mine.usable, self._topics.partitions
        for partition in usable & polled.behind.keys():
            self._scheduler.arrived(partition, polled.behind[partition], now_ms)
        for user in polled.live:
            if (partition := partition_of(user, number_of)) in usable:
                self._scheduler.mark(user, now_ms, partition=partition)
        for user in polled.swept:
            if (partition := partition_of(user, number_of)) in usable:
                self._scheduler.mark_low(user, now_ms, partition=partition)
        if polled.rows:
            fault.point("worker.1")
        return polled.rows

    def _catch_up(self, seconds: float) -> None:
        """W1 of partitions that are far behind: a slice of it."""
        if self._mine.catch_up.poll(seconds):
            fault.point("worker.1")

    def _pause_or_resume(self) -> None:
        """While refreshes fall behind, rows wait on the broker: lag shows it, and nothing grows here.

        What is not usable is read on: nobody of it is refreshed before.
        """
        pause = self._mine.usable if self._scheduler.should_pause(_now_ms()) else set()
        _export(self._scheduler.pending())
        for partitions, change, event in (
            (pause - self._paused, self._consumer.pause, logs.INPUT_PAUSED),
            (self._paused - pause, self._consumer.resume, logs.INPUT_RESUMED),
        ):
            if partitions:
                change([TopicPartition(self._topics.tokens, partition) for partition in partitions])
                log.debug(event, topic=self._topics.tokens, partitions=sorted(partitions))
        self._paused = pause

    def _refresh(self, batch: RefreshBatch) -> None:
        started = time.monotonic()
        targets = self._scenarios.targets
        by_partition: dict[int, list[str]] = {}
        for user in batch.users:
            by_partition.setdefault(partition_of(user, self._topics.partitions), []).append(user)
        # a partition that was revoked since is its new owner's; one that came back is behind, its users marked anew
        owned = [(self._mine.get(partition), users) for partition, users in by_partition.items()]
        parts = [_Part(assignment, users) for assignment, users in owned if assignment is not None and assignment.ready]
        # W2
        windows = [window for part in parts for window in part.known]
        vectors = self._encoder.encode(windows, self._scenarios.names)
        computed = time.monotonic()
        fault.point("worker.2")
        # W3
        at = 0
        for part in parts:
            of_part = vectors[at : at + len(part.known)]
            at += len(part.known)
            if self._still_mine(part.assignment):
                self._publisher.publish(part.assignment.partition, part.known, targets, of_part)
                self._publisher.erase(part.assignment.partition, part.gone, targets)
        mine = [part for part in parts if self._still_mine(part.assignment)]
        published = self._publish({p.assignment: p.assignment.position_after(p.users, p.upto) for p in mine})
        fault.point("worker.3")
        # W4
        for part in mine:
            if part.assignment in published:
                due = part.assignment.silence.next_due(part.known, part.gone)
                part.assignment.buffer.dirty.clear(part.users, upto=part.upto, due=due)
        fault.point("worker.4")
        self._scheduler.done(batch, computed - started, _now_ms())
        metrics.REFRESHED_USERS.inc(len(windows))
        metrics.REFRESH_SECONDS.observe(time.monotonic() - started)
        log.debug(logs.USERS_REFRESHED, users=len(windows), seconds=round(time.monotonic() - started, 3))

    def _back_fill(self, turn: BackFillTurn) -> None:
        """One batch of the first partition that has users left; what it computes, no live refresh has overtaken."""
        started = time.monotonic()
        # B2
        for assignment in self._mine:
            if not assignment.ready:
                continue
            batch = assignment.back_fill.take(turn.tokens, self._scenarios.tail_tokens)
            if batch is not None:
                break
        else:
            self._scheduler.done(turn, 0.0, _now_ms())
            return
        vectors = self._encoder.encode(batch.windows, [target.scenario for target in batch.targets])
        fault.point("back_fill.2")
        if self._still_mine(assignment):
            # B3
            self._publisher.publish(assignment.partition, batch.windows, batch.targets, vectors)
            published = self._publish({assignment: assignment.position})
            fault.point("back_fill.3")
            if published:
                # B4
                assignment.back_fill.advance(batch)
                fault.point("back_fill.4")
                for target in batch.targets:
                    metrics.BACK_FILLED_USERS.labels(target.scenario).inc(len(batch.windows))
        self._scheduler.done(turn, time.monotonic() - started, _now_ms())

    def _tick(self, turn: TickTurn) -> None:
        """One batch of silent users, of the partition that is furthest behind in time."""
        started = time.monotonic()
        ready = [assignment for assignment in self._mine if assignment.ready and assignment.silence.waiting]
        assignment = max(ready, key=lambda a: a.silence.behind_ms)
        names = self._scenarios.names
        batch = assignment.silence.take(turn.tokens, self._scheduler.tail_tokens)
        if batch is not None and batch.windows:
            # T2
            vectors = self._encoder.encode(batch.windows, names)
            fault.point("silence.2")
            if self._still_mine(assignment):
                # T3
                self._publisher.publish(assignment.partition, batch.windows, self._scenarios.targets, vectors)
                assignment.silence.reach(batch)
                published = self._publish({assignment: assignment.position})
                fault.point("silence.3")
                if published:
                    # T4
                    assignment.silence.done(batch)
                    fault.point("silence.4")
                    metrics.SILENT_USERS.inc(len(batch.windows))
        self._scheduler.done(turn, time.monotonic() - started, _now_ms())

    def _still_mine(self, assignment: Assignment) -> bool:
        return self._mine.get(assignment.partition) is assignment

    def _publish(self, positions: Mapping[Assignment, int]) -> set[Assignment]:
        """W3, B3: what was produced for these becomes visible, with their positions. Returns those of which it did.

        Raises:
            BrokerError: refused, or not acknowledged in time. Stopped.
        """
        due: dict[int, Position] = {a.partition: (at, a.metadata) for a, at in positions.items()}
        written = self._writers.commit(due)
        for assignment in positions:
            if (why := written.fenced.get(assignment.partition)) is not None:
                self._fenced(assignment, why)
            elif assignment.partition in written.committed:
                assignment.committed(due[assignment.partition])
                self._renewals.pop(assignment.partition, None)
        return {a for a in positions if a.partition in written.published}

    def _report(self) -> None:
        """How far the back-fills are."""
        self._reports.report({a.partition: a.back_fill.progress() for a in self._mine if a.ready})
        if queued := self._writers.queued():
            self._publish({a: a.position for a in self._mine if a.ready and a.partition in queued})

    def _fenced(self, assignment: Assignment, why: str) -> None:
        partition = assignment.partition
        self._renewals[partition] += 1
        log.warning(logs.PARTITION_FENCED, partition=partition, detail=why)
        metrics.FENCED.inc()
        if self._renewals[partition] > RENEWALS:
            raise BrokerError(
                f"{self._topics.tokens}:{partition}: what it publishes was not committed {RENEWALS} times: {why}",
                action=f"check the broker, and who else uses the transactional ids {self._topics.group_worker}.…",
                code="writer_fenced",
            )
        self._unschedule(assignment)
        # by then the group has spoken, if the partition is another's
        assignment.fenced(until=time.monotonic() + 1.5 * self._connection.heartbeat_interval_ms / 1000)

    def _renew(self) -> None:
        """What was fenced and is still ours is taken on anew: somebody else may have published meanwhile."""
        for old in self._mine:
            if old.fenced_until is not None and time.monotonic() >= old.fenced_until:
                self._writers.open([old.partition], self._consumer)
                self._reports.forget([old.partition])
                self._mine.renew(old.partition, self._scenarios.targets)

    def _commit(self) -> None:
        """W5, B1, B5."""
        now = time.monotonic()
        if now - self._committed_at >= COMMIT_SECONDS or not self._mine.announced:
            self._committed_at = now
            left = self._scheduler.pending().seconds or None
            for assignment in self._mine:
                users = len(assignment.buffer.dirty)
                assignment.waiting = Waiting(users, left if users else None, assignment.buffer.log_offset)
            behind_ms = max((a.silence.behind_ms for a in self._mine if a.ready), default=0)
            metrics.SILENCE_BEHIND_SECONDS.set(behind_ms / 1000)
            self._mine.commit()
            self._writers.check()

    def _window_of(self, partition: int, user_id: str) -> UserWindow | None:
        """None where the partition is not ours."""
        assignment = self._mine.get(partition)
        return None if assignment is None else assignment.silence.window(user_id)

    # Partitions come and go

    def _open_buffer(self, partition: int) -> TokenBuffer:
        buffer = self._buffers.open(partition)
        try:
            same_log(self._topic_ids, self._topics.tokens, buffer)
        except BaseException:
            buffer.close()
            raise
        return buffer

    def _assigned(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        numbers = [tp.partition for tp in partitions]
        for number in numbers:
            self._topics.check_partition(self._topics.tokens, number)
        # W0
        self._writers.open(numbers, consumer)
        positions, away = self._mine.given(numbers, self._scenarios.targets)
        consumer.assign(positions)
        consumer.resume(positions)  # librdkafka keeps a partition paused over its next assignment
        if far := [tp for tp in positions if tp.partition in self._mine.catch_up]:
            consumer.pause(far)
        self._paused.difference_update(numbers)
        if self._requests is not None:
            self._requests.assigned(numbers)
        log.info(logs.PARTITIONS_ASSIGNED, partitions=numbers, seconds=round(away, 3))
        if not self._ready:
            self._ready = True
            self._on_ready()

    def _schedule(self, assignment: Assignment) -> None:
        """It has become usable."""
        now_ms, partition = _now_ms(), assignment.partition
        dirty = assignment.buffer.dirty
        fresh = [user.user_id for user in dirty if not user.mark.sweep]
        self._scheduler.mark_backlog(fresh, now_ms, partition=partition)
        for user in dirty:
            if user.mark.sweep:
                self._scheduler.mark_low(user.user_id, now_ms, partition=partition)

    def _unschedule(self, assignment: Assignment) -> None:
        """It is usable no more."""
        for user in assignment.buffer.dirty:
            self._scheduler.remove(user.user_id)
        self._scheduler.forget(assignment.partition)

    def _revoked(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        self._release([tp.partition for tp in partitions], commit=True)

    def _lost(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        self._release([tp.partition for tp in partitions], commit=False)

    def _release(self, partitions: Sequence[int], *, commit: bool) -> None:
        if self._requests is not None:
            self._requests.revoked(partitions)
        self._reports.forget(partitions)
        for assignment in self._mine.release(partitions, commit=commit):
            self._unschedule(assignment)
            assignment.buffer.close()
            self._renewals.pop(assignment.partition, None)
        self._paused.difference_update(partitions)
        self._writers.close(partitions)
        log.info(logs.PARTITIONS_REVOKED, partitions=list(partitions))


class _Part:
    """Users of one partition in a refresh. known: their windows; gone: users of whom nothing is left."""

    def __init__(self, assignment: Assignment, users: list[str]) -> None:
        self.assignment, self.users = assignment, users
        self.upto = assignment.buffer.log_offset
        windows = [assignment.silence.window(user) for user in users]
        self.known = [window for window in windows if window.is_known]
        self.gone = [window.user_id for window in windows if not window.is_known]


def _now_ms() -> int:
    return int(time.monotonic() * 1000)


def _export(waiting: Pending) -> None:
    metrics.DIRTY_USERS.set(waiting.live_users + waiting.low_users)
    metrics.PENDING_TOKENS.set(waiting.live_tokens + waiting.low_tokens)
    metrics.PENDING_SECONDS.set(waiting.seconds)
