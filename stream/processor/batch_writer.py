"""Steps 2 to 5 of the commit protocol for batches of `events`, in one thread (docs/commit-protocol.md).

    1  read      a batch of packs, with their offsets (stream/processor/processor.py)
    2  encode    their texts, all partitions at once
    3  prepare   per partition: what the batch changes; nothing is written
    4  send      the rows to `tokens`, and dead letters; wait until the broker has acknowledged all
    5  commit    per partition: rows, indexes and offsets in one WriteBatch
    6  ack       Kafka's committed offset follows what is durable (stream/processor/faust_app.py)

A crash before 5 repeats the batch: its rows are a function of buffer and events, so the log gets the same rows again.
A crash after 5 repeats nothing: offsets up to `source_offset` are skipped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from typing import TypeVar

from confluent_kafka import TopicPartition

from store.account.account import RefusedEvent
from store.base import fault, logs, metrics
from store.base.errors import BrokerError, DataLossError
from store.base.stop import AnyOf, Stopped, obey
from store.buffer.token_buffer import TokenBuffer
from store.window.changes import Changes
from store.window.encoded_event import EncodedEvent
from store.window.layout import Arrival
from store.window.silence import floor_hour
from stream.commit_metadata import decode
from stream.dead_letter import DeadLetterHeaders
from stream.events.event import Pack
from stream.kafka.gc_pause import gc_paused
from stream.kafka.membership import Rebalance
from stream.kafka.pacing import SafeProducer
from stream.kafka.patience import patiently
from stream.kafka.positions import check_position, first_offset, reset_command
from stream.kafka.topic_ids import TopicIds
from stream.processor.arrivals import Arrivals
from stream.processor.encode_events import TextEncoder, encode_events
from stream.processor.faust_app import Message
from stream.processor.openings import Openings
from stream.processor.partition import Partition, PartitionConfig, open_partition
from stream.processor.read_packs import read_packs
from stream.token_log.account_marks import AccountMarks

T = TypeVar("T")
LOG_INTERVAL_SECONDS = 10.0
UNKNOWN_MODALITY_SECONDS = 300.0
"""How long, from its ingestion, an event waits for a processor that knows its modality."""
SETTLE_SECONDS = 10.0
"""How long a partition that was opened may have something to catch up with, before the hour is told."""
_LOOK_SECONDS = 0.1
log = logs.get(__name__)


class BatchWriter:
    """Applies batches to the partitions' buffers. For one thread, but `durable`, which any thread may call."""

    def __init__(
        self,
        config: PartitionConfig,
        encoder: TextEncoder,
        stop: threading.Event,
        *,
        group: str,
        openings: Openings | None = None,
        wall_passes: bool = False,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the producer.

        Args:
            stop: once set, what blocks gives up its batch.
            group: the consumer group whose committed offset is where an empty buffer starts.
            wall_passes: time passes by the wall too, not by events alone.
            openings: from where buffers are taken, and where they are left; closed with this.
            wall: seconds since the epoch. clock: seconds, monotonic.
        """
        self._config = config
        self._encoder = encoder
        self._stop = stop
        self._topic = config.topics.events
        self._group = group
        self._openings = openings or Openings(config)
        self._wall = wall
        self._clock = clock
        self._wall_passes = wall_passes
        self._partitions: dict[int, Partition] = {}
        self._next: dict[int, int] = {}
        self._arrivals = Arrivals()
        self._producer = SafeProducer(
            config.connection,
            config.topics.specs(config.buffers.modalities, ()),
            while_waiting=partial(obey, stop),
            config={"message.max.bytes": config.topics.dead_letter_max_bytes},
        )
        self._marks = AccountMarks(config.connection, config.topics.tokens, config.topics.group_account)
        self.rebalance = Rebalance("processor")
        self._events = 0
        self._logged_at = self._clock()

    def durable(self, partition: int) -> int | None:
        """Next offset of `events` to read after a crash at this instant; None while the partition is not open."""
        return self._next.get(partition)

    @property
    def sweep_left(self) -> bool:
        """Whether expired rows remain that no event will touch."""
        return any(partition.sweep_left for partition in list(self._partitions.values()))

    def open(self, number: int, revoked: threading.Event) -> None:
        """Open a partition that was assigned, ahead of its first batch; not if `revoked` is set before it is done.

        Raises:
            AnchorstreamError: as `apply`.
        """
        with suppress(Stopped):
            self._open(number, None, revoked)

    def apply(self, messages: Sequence[Message], revoked: threading.Event) -> None:
        """Steps 2 to 5 for one batch.

        Args:
            revoked: once set, no partition is opened for the batch any more.

        Raises:
            Stopped: the batch was given up, nothing of it is durable: no later one may be applied before it.
            AnchorstreamError: the process must end without acknowledging anything further.
        """
        fault.point("processor.1")
        started = self._clock()
        fresh = self._fresh(messages, revoked)
        with gc_paused():  # to the end of the batch's own objects
            count = self._apply(fresh, revoked)
        metrics.BATCH_SECONDS.labels("processor").observe(self._clock() - started)
        metrics.BATCH_EVENTS.labels("processor").observe(count)
        self._report(count)

    def _apply(self, fresh: Sequence[tuple[Partition, Sequence[Message]]], revoked: threading.Event) -> int:
        """Steps 2 to 5; returns the number of events."""
        batches = self._encode(fresh, revoked)
        fault.point("processor.2")
        changes = [
            (partition, partition.buffer.prepare(events, source_offset=last, refused=refused))
            for partition, events, refused, last, _ in batches
        ]
        fault.point("processor.3")
        arrived = {partition.number: at for partition, _, _, _, at in batches}
        self._write(changes, arrived)
        self._arrivals.batch(arrived, int(self._wall() * 1000), self._clock())
        return sum(len(events) for _, events, _, _, _ in batches)

    def sweep(self) -> None:
        """Take out expired rows where some are left, a bounded number at a time; the same steps without events."""
        left = [partition for partition in self._partitions.values() if partition.sweep_left]
        self._write([(p, p.buffer.prepare([], source_offset=p.buffer.source_offset)) for p in left])

    def say_caught_up(self) -> None:
        """Tell the workers of partitions that no more is to be waited for, where the last batch was late."""
        wall_ms = int(self._wall() * 1000)
        for number in self._arrivals.ended(self._clock()):
            if (partition := self._partitions.get(number)) is not None:
                buffer = partition.buffer
                changes = buffer.prepare([], source_offset=buffer.source_offset)
                self._write([(partition, changes._replace(account=buffer.account))], {number: wall_ms})

    def say_time(self) -> None:
        """Where time passes by the wall: tell each hour, and expire by it. A partition that is behind waits."""
        if not self._wall_passes:
            return
        hour, now = floor_hour(int(self._wall() * 1000)), self._clock()
        for number, partition in self._partitions.items():
            buffer = partition.buffer
            known = max(buffer.wall_time, floor_hour(buffer.stream_time))
            if hour > known and now - partition.opened_at >= SETTLE_SECONDS and not self._arrivals.late(number):
                changes = buffer.prepare([], source_offset=buffer.source_offset, stream_now=hour)
                self._write([(partition, changes._replace(account=buffer.account))])

    def say_account(self) -> None:
        """Tell where the accounts lie, now and then; does not wait."""
        self._marks.say()

    def close(self, partitions: Sequence[int] | None = None) -> None:
        """Let go of some partitions, also of those on their way. Default: of all, for good."""
        if partitions is None:
            self._openings.close()
        else:
            self._openings.give_up(partitions)
        closing = list(self._partitions) if partitions is None else partitions
        self._marks.close(closing)
        self._arrivals.forget(closing)
        for number in closing:
            self._next.pop(number, None)
            if (partition := self._partitions.pop(number, None)) is not None:
                self._openings.leave(number, partition.buffer)
        if partitions is None:
            self._marks.end()

    def _fresh(
        self, messages: Sequence[Message], revoked: threading.Event
    ) -> list[tuple[Partition, Sequence[Message]]]:
        """Open the partitions; their messages without what is already durable."""
        began = self._clock()
        by_partition: dict[int, list[Message]] = {}
        for message in messages:
            by_partition.setdefault(message.partition, []).append(message)
        out: list[tuple[Partition, Sequence[Message]]] = []
        for number, found in by_partition.items():
            partition = self._open(number, began, revoked)
            if fresh := [m for m in found if m.offset > partition.buffer.source_offset]:
                if fresh[0].offset > self._next[number]:
                    self._look_into_gap(number, self._next[number], fresh[0].offset)
                out.append((partition, fresh))
        return out

    def _encode(
        self, fresh: Sequence[tuple[Partition, Sequence[Message]]], revoked: threading.Event
    ) -> list[tuple[Partition, list[EncodedEvent], list[RefusedEvent], int, int | None]]:
        """Step 2: (partition, encoded events, those refused, last offset, when the newest event came in)."""
        packs: list[Pack] = []
        since: list[list[int]] = []
        found = []
        for partition, messages in fresh:
            contents = read_packs(messages, self._topic, self._config.buffers.modalities)
            self._wait_for_news(partition, contents.unknown, revoked)
            for letter in contents.refused:
                metrics.EVENTS_DEAD_LETTERED.labels(DeadLetterHeaders.decode(letter.headers).error).inc()
                self._producer.produce(self._config.topics.dead_letters, letter.value, letter.key, -1, letter.headers)
            if contents.refused:
                log.warning(logs.EVENT_DEAD_LETTERED, partition=partition.number, packs=len(contents.refused))
            packs += contents.packs
            since += contents.since
            found.append(contents)
        encoded = iter(encode_events(packs, self._encoder, since))
        return [
            (partition, list(islice(encoded, of.events)), of.refused_events, messages[-1].offset, of.arrived)
            for (partition, messages), of in zip(fresh, found, strict=True)
        ]

    def _wait_for_news(self, partition: Partition, unknown: Mapping[str, int], revoked: threading.Event) -> None:
        """Ingest may have a newer configuration than this process: hold the batch until it is replaced, for a while.

        Not for a modality that was ever configured here: it has been removed.

        Args:
            unknown: as of `Contents`.

        Raises:
            Stopped: nothing of the batch is durable.
        """
        new = {name: at for name, at in unknown.items() if name not in partition.buffer.schema.modalities}
        said = False
        # from the first look on by our own clock: the wall's may go back, and the wait is over all the same
        left = max(new.values(), default=0) / 1000 + UNKNOWN_MODALITY_SECONDS - self._wall()
        until = self._clock() + min(left, UNKNOWN_MODALITY_SECONDS)
        while new and self._clock() < until:
            if not said:
                said = True
                log.warning(
                    logs.INPUT_PAUSED,
                    partition=partition.number,
                    reason=f"unknown modalities: {', '.join(sorted(new))}",
                    action="restart the processors with the configuration that ingest has; after "
                    f"{UNKNOWN_MODALITY_SECONDS:g} s the events go to dead-letters",
                )
            obey(AnyOf(self._stop, revoked))
            self._stop.wait(_LOOK_SECONDS)

    def _write(
        self, batch: Sequence[tuple[Partition, Changes]], arrived: Mapping[int, int | None] | None = None
    ) -> None:
        """Steps 4 and 5. arrived: by partition, when the newest event came in."""
        arrived, wall_ms = arrived or {}, int(self._wall() * 1000)
        for partition, changes in batch:
            at = arrived.get(partition.number)
            partition.log.send(changes, None if at is None else Arrival(at, max(0, wall_ms - at)))
        fault.point("processor.4a")
        self._producer.flush()
        fault.point("processor.4")
        for partition, changes in batch:
            partition.buffer.commit(changes, log_offset=partition.log.delivered())
            partition.sweep_left = changes.sweep_left
            # a sweep on a new disk knows no offset of its own
            self._next[partition.number] = max(self._next[partition.number], changes.source_offset + 1)
            self._note(partition)
            for outcome, count in changes.outcomes._asdict().items():
                if count:
                    metrics.EVENTS_APPLIED.labels(outcome).inc(count)
            fault.point("processor.5")
        self._marks.say()

    def _note(self, partition: Partition) -> None:
        if partition.log.marked is not None:
            self._marks.note(partition.number, partition.log.marked, self._next[partition.number])

    def _open(self, number: int, began: float | None, revoked: threading.Event) -> Partition:
        """began: when it was needed; None = when it was given. A batch's are opened one after the other."""
        if (partition := self._partitions.get(number)) is None:
            self._config.topics.check_partition(self._topic, number)
            stop = AnyOf(self._stop, revoked)
            obey(stop)
            buffer = self._openings.take(number)
            try:
                partition = open_partition(self._config, number, buffer, self._producer, stop)
                if partition is not None:
                    self._same_source(number, buffer)
            except BaseException:
                buffer.close()
                raise
            if partition is None:
                self._openings.leave(number, buffer)
                raise Stopped
            self._partitions[number] = partition
            known = buffer.source_offset
            # with a new disk Kafka's position counts: what lies below it is in `tokens`
            self._next[number] = self._position(number, known + 1 if known >= 0 else -1)
            self._marks.open(number, buffer.count_users)
            self._note(partition)
            self.rebalance.usable(number, opening=None if began is None else self._clock() - began)
        return partition

    def _same_source(self, number: int, buffer: TokenBuffer) -> None:
        """The buffer's offset counts for the `events` that is there; a person may say that it starts anew there.

        Raises:
            DataLossError: `events` was deleted and made anew.
        """
        ids = TopicIds(self._config.connection)
        found = self._ask(lambda: ids.ask([self._topic])).get(self._topic)
        if found is None or buffer.source_topic == found:
            return
        if buffer.source_topic == "":  # a new buffer, or an older version's
            buffer.begin_source(found, buffer.source_offset)
            return
        with closing(self._config.connection.consumer(self._group)) as consumer:
            (committed,) = self._ask(lambda: consumer.committed([TopicPartition(self._topic, number)], timeout=10.0))
        if decode(committed.metadata).get("topic") != found:  # Faust's commits say nothing, a reset does
            raise DataLossError(
                f"{self._topic}:{number} was deleted and made anew; this buffer had read the old one up to offset "
                f"{buffer.source_offset}: what came after it is gone",
                action=reset_command(self._group, every=True),
            )
        log.warning(logs.TOPIC_MADE_ANEW, topic=self._topic, partition=number, next_offset=committed.offset)
        buffer.begin_source(found, committed.offset - 1)

    def _position(self, number: int, known: int) -> int:
        """Where `events` is to be read on: what is durable or committed; -1 = nothing is known to be.

        Raises:
            DataLossError: messages of `events` were removed before they were read.
        """
        consumer = self._config.connection.consumer(self._group)
        try:
            (tp,) = self._ask(lambda: consumer.committed([TopicPartition(self._topic, number)], timeout=10.0))
            position: int = max(tp.offset, known)
            if position < 0 and not self._config.connection.embedded:
                # a new group: what the topic's retention removed before is not ours to miss
                low, _ = self._ask(lambda: consumer.get_watermark_offsets(tp, timeout=10.0, cached=False))
                return int(low)
            position = max(position, 0)
            self._ask(lambda: check_position(consumer, tp, position, remedy=reset_command(self._group)))
            return position
        finally:
            consumer.close()

    def _look_into_gap(self, number: int, expected: int, found: int) -> None:
        """What lies between must be no message: not one that was removed unread, and not one that was passed over."""
        self._position(number, expected)
        tp = TopicPartition(self._topic, number, expected)
        with closing(self._config.connection.consumer(self._group)) as consumer:
            first = self._ask(lambda: first_offset(consumer, tp))
        if first < found:
            raise BrokerError(
                f"{self._topic}:{number} was read on at offset {found}, but {first} has not been applied yet",
                action="nothing: the processor starts again at what is durable",
                code="messages_passed_over",
            )

    def _ask(self, question: Callable[[], T]) -> T:
        return patiently(question, self._stop)

    def _report(self, events: int) -> None:
        self._events += events
        now = self._clock()
        if (seconds := now - self._logged_at) >= LOG_INTERVAL_SECONDS:
            log.info(logs.BATCH_APPLIED, events=self._events, per_second=round(self._events / seconds))
            self._events, self._logged_at = 0, now
