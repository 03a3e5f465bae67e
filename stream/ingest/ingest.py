"""Ingest: raw topics → validated, packed events in `events`; what is refused goes to `dead-letters`.

    1  read      raw messages; while behind, those of all partitions in the order of their events' times (merge.py)
    2  judge     an Event, a Rejection, or Skipped (judge.py); what is ahead of its stream waits for what follows
    3  send      events packed per partition to `events`, rejections with their original bytes to `dead-letters`
    4  commit    the batch's offsets, once the broker has acknowledged all of 3 for it and for every batch before

A crash anywhere repeats some of 3: downstream drops duplicates by event id. The offset's metadata holds the stream's
clock at that offset, so that a replayed event is judged as it was the first time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from store.base import logs, metrics, pulse
from store.base.errors import BrokerError
from store.base.settings import ModalitySettings
from store.base.stop import Stopped, obey
from stream.clock import EventClock, Source
from stream.dead_letter import dead_letter
from stream.events import behind, field_counts
from stream.events.event import Event
from stream.events.packing import packs
from stream.events.validate import Validator
from stream.ingest.behind import Behind
from stream.ingest.counts import IngestCounts, NotAccepted
from stream.ingest.field_presence import FieldPresence
from stream.ingest.in_flight import InFlight, InFlightBatch, RawPosition
from stream.ingest.judge import Judge
from stream.ingest.merge import EventTimeMerge
from stream.ingest.offset_commits import OffsetCommits
from stream.ingest.raw_topic_ids import RawTopicIds
from stream.ingest.start_positions import StartPositions
from stream.kafka.client import Connection
from stream.kafka.consumer_errors import ConsumerErrors, UnreadTopics
from stream.kafka.membership import Membership, leave
from stream.kafka.pacing import SafeProducer
from stream.kafka.partitioner import partition_of
from stream.raw_counts import SINCE_HEADER
from stream.rejection import Rejection, Skipped
from stream.settings import IngestSettings, MappingSettings
from stream.topics import Topics

MAX_IN_FLIGHT = 16
"""Batches sent and not yet acknowledged; beyond this, reading waits."""
DRAIN_SECONDS = 30.0
READ_SECONDS = 0.01
IDLE_SECONDS = 0.2
QUIET_SECONDS = 3.0
"""At the end of a partition; then what is held of it is decided."""
METADATA_MS = 5_000
"""Between two looks at the raw topics' partitions."""
BEHIND_LOOK_SECONDS = 0.25
log = logs.get(__name__)


class Ingest:
    """One member of the ingest group. Single-threaded: everything happens in `run`."""

    def __init__(
        self,
        connection: Connection,
        topics: Topics,
        modalities: Mapping[str, ModalitySettings],
        settings: IngestSettings,
        *,
        mapping: Mapping[str, MappingSettings] | None = None,
        on_ready: Callable[[], None] = lambda: None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`on_ready` is called once, when the first partitions are assigned. `mapping` is by raw topic. `wall` gives
        seconds since the epoch."""
        self._connection = connection
        self._topics = topics
        self._raw_topics = sorted({m.topic for m in modalities.values()})
        self._settings = settings
        self._on_ready = on_ready
        self._wall = wall
        self._clock = EventClock.of(settings, modalities)
        self._errors = ConsumerErrors(topics.group_ingest)
        self._unread = UnreadTopics(topics.group_ingest)
        self._ids = RawTopicIds(connection, topics, self._raw_topics, self._errors, self._unread)
        self._commits = OffsetCommits(self._may_commit, self._errors)
        validator = Validator(modalities, settings, self._clock, self._ids.source_of, mapping)
        self._judge = Judge(validator, self._clock)
        self._merge = EventTimeMerge(
            lambda message: validator.event_time(message.value(), message.topic()),
            self._clock.max_ahead_ms,
            on_begin=lambda source, times: self._judge.begin(source, times, int(self._wall() * 1000)),
        )
        self._full: set[Source] = set()
        self._counts = IngestCounts(validator.mappings())
        self._starts = StartPositions(
            self._ids,
            self._judge,
            self._counts,
            self._commits,
            self._errors,
            group=topics.group_ingest,
            from_zero=connection.embedded,
            wall=wall,
        )
        self._presence = FieldPresence(validator.contents(), time.monotonic)
        self._in_flight = InFlight()
        self._behind = Behind()
        self._behind_at = 0.0
        self._assigned: set[Source] = set()
        self._ready = False
        self._paused = False
        self._backlog: list[Any] = []
        self._read_to: dict[Source, int] = {}
        self._moved: set[Source] = set()  # while a batch was being read or sent
        self._ended: dict[Source, tuple[int, float]] = {}
        self._membership = Membership(connection, topics.group_ingest)
        self._consumer = self._new_consumer()
        self._stop = threading.Event()
        self._producer = SafeProducer(
            connection,
            topics.specs(modalities, ()),
            while_waiting=self._stay_in_group,
            config={"message.max.bytes": topics.dead_letter_max_bytes},
        )

    def run(self, stop: threading.Event) -> None:
        """Consume until `stop` is set, then drain, commit and leave the group. Call once.

        Raises:
            DataLossError: raw messages were removed before they were read.
            BrokerError: the broker refuses us, or a message could not be delivered.
        """
        self._stop = stop
        try:
            self._join()
            while not stop.is_set():
                pulse.beat()
                self._round()
                self._membership.look(self._consumer)
            log.info(logs.ROLE_STOPPING, batches_in_flight=len(self._in_flight))
            self._drain()
        except BaseException:
            self._assigned.clear()  # leave the group without committing
            raise
        finally:
            self._ids.close()
            leave(self._consumer)

    def _new_consumer(self) -> Any:
        # offset reset "error": a reset to the oldest message would skip lost ones in silence
        return self._connection.consumer(
            self._topics.group_ingest,
            **{  # type: ignore[arg-type]
                "auto.offset.reset": "error",
                "partition.assignment.strategy": "cooperative-sticky",
                # what a transaction leaves behind takes offsets and is no message: its end is what is reached
                "enable.partition.eof": True,
                # a topic or partition that was added is read within seconds; only the topics it reads are asked for
                "topic.metadata.refresh.interval.ms": METADATA_MS,
                "on_commit": self._commits.on_commit,
            },
        )

    def _join(self) -> None:
        self._consumer.subscribe(
            self._raw_topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def _round(self) -> None:
        """Steps 1 to 4 for one batch."""
        self._look_at_topics()
        messages, ended, errors = self._read()
        quiet = self._quiet(messages)
        if messages or quiet:
            started = time.monotonic()
            try:
                self._process(messages, list(quiet))
            except Stopped:
                return  # the unsealed batch keeps its offsets from being committed: it will be read again
            self._behind.took(len(messages), time.monotonic() - started)
            metrics.BATCH_SECONDS.labels("ingest").observe(time.monotonic() - started)
            metrics.BATCH_EVENTS.labels("ingest").observe(len(messages))
        self._presence.look()
        self._look_behind()
        self._wait_at(ended)
        self._pass_over(ended | quiet)
        self._judge_errors(errors)
        self._unread.say()
        self._producer.check()
        while len(self._in_flight) >= MAX_IN_FLIGHT and not self._stop.is_set():
            self._producer.poll(0.01)
            self._producer.check()  # a batch that lost a message is never done
            self._commit()
        self._commit()

    def _look_behind(self) -> None:
        """Now and then: how much waits on the broker and here, as far as the consumer has been told."""
        now = time.monotonic()
        if now < self._behind_at + BEHIND_LOOK_SECONDS:
            return
        self._behind_at = now
        waiting = 0
        for source in self._assigned:
            with suppress(KafkaException):  # not known here yet, or no more
                end = self._consumer.get_watermark_offsets(TopicPartition(*source), cached=True)[1]
                waiting += max(0, end - self._read_to.get(source, end))
        self._behind.look(waiting)

    def _read(self) -> tuple[list[Any], dict[Source, int], list[Any]]:
        """Step 1: messages without errors, the partitions that have been read to their end, and errors."""
        wanted = self._settings.batch_messages
        batch, self._backlog = self._backlog, []
        if not batch:
            batch = self._consumer.consume(wanted, READ_SECONDS)
            if (
                not batch
                and not self._merge
                and not len(self._in_flight)
                and (message := self._consumer.poll(IDLE_SECONDS)) is not None
            ):
                self._moved.clear()
                more = self._consumer.consume(wanted, READ_SECONDS)
                # of a partition that has moved away meanwhile, perhaps to come back, it is read again
                batch = more if (message.topic(), message.partition()) in self._moved else [message, *more]
        good, errors = [], []
        ended: dict[Source, int] = {}
        for message in batch:
            source = (message.topic(), message.partition())
            if message.error() is None:
                self._unread.read(message.topic())
                good.append(message)
                ended.pop(source, None)
            elif message.error().code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                self._unread.read(message.topic())
                ended[source] = message.offset()
            else:
                errors.append(message)
        self._merge.add(good, ended)
        # what came of a topic that fails is judged before its failure
        rest = [m for topic in {error.topic() for error in errors} for m in self._merge.take_topic(topic)]
        taken = self._merge.take(wanted)
        self._pause_full()
        return rest + taken.messages, taken.ended, errors

    def _pause_full(self) -> None:
        """Read no further where much waits for older events of others."""
        full = self._merge.full() & self._assigned
        for act, sources in ((self._consumer.pause, full - self._full), (self._consumer.resume, self._full - full)):
            if partitions := [TopicPartition(*source) for source in sources & self._assigned]:
                act(partitions)
        self._full = full

    def _judge_errors(self, errors: Sequence[Any]) -> None:
        """Once what came with them is processed: of a topic that was made anew, as the old one's."""
        anew: set[str | None] = set()
        for message in errors:
            topic = message.topic()
            if topic in anew or self._unread.take(message):
                continue  # its other partitions fail for the same reason
            if self._made_anew(topic):
                anew.add(topic)
            else:
                self._errors.judge(message)

    def _pass_over(self, ended: Mapping[Source, int]) -> None:
        """Offsets without a message, up to the end, are done once all before them is."""
        beyond = {
            source: end
            for source, end in ended.items()
            if source in self._assigned
            and end > self._read_to.get(source, end)
            and self._judge.first_held(source) is None
        }
        if beyond:
            self._in_flight.open().seal({s: self._position(s, end) for s, end in beyond.items()})
            self._read_to.update(beyond)

    def _wait_at(self, ended: Mapping[Source, int]) -> None:
        """More may come there that decides what is held."""
        now = time.monotonic()
        for source, end in ended.items():
            if self._judge.first_held(source) is not None:
                self._ended.setdefault(source, (end, now))

    def _quiet(self, messages: Sequence[Any]) -> dict[Source, int]:
        """Ends of the partitions where no more has come for a while."""
        if not self._ended:
            return {}
        for message in messages:
            self._ended.pop((message.topic(), message.partition()), None)
        now = time.monotonic()
        quiet = [source for source, (_, since) in self._ended.items() if now >= since + QUIET_SECONDS]
        return {source: self._ended.pop(source)[0] for source in quiet}

    def _process(self, messages: Sequence[Any], concluded: Sequence[Source]) -> None:
        """Steps 2 and 3. concluded: partitions of which no more is to be waited for."""
        wall_ms = int(self._wall() * 1000)
        batch = self._in_flight.open()
        accepted: dict[int, list[Event]] = {}
        others: list[NotAccepted] = []
        partitions = self._topics.partitions
        self._moved.clear()
        verdicts = (self._judge.judge(messages, wall_ms), *(self._judge.conclude(s, wall_ms) for s in concluded))
        for message, result in chain.from_iterable(verdicts):
            if isinstance(result, Event):
                accepted.setdefault(partition_of(result.user_id, partitions), []).append(result)
                continue
            source = (message.topic(), message.partition())
            waits = self._judge.first_held(source) is not None
            others.append(NotAccepted(source, message.offset(), result, waits))
            if not isinstance(result, Skipped):
                self._send_dead_letter(batch, result, message)
        now = self._clock.now(wall_ms)
        for partition, events in accepted.items():
            late = behind.header(self._behind.ms(max(event.produced_at for event in events), wall_ms))
            for value, sources in packs(now, events, self._settings.pack_events):
                batch.sent()
                self._producer.produce(
                    self._topics.events,
                    value,
                    partition=partition,
                    headers=[(SINCE_HEADER, self._counts.since_header(sources)), *self._field_counts(wall_ms), *late],
                    on_delivery=batch.on_delivery,
                )
        last = {(message.topic(), message.partition()): message for message in messages}
        for source in self._moved:  # what was read of it is read again
            last.pop(source, None)
        self._read_to.update({source: message.offset() + 1 for source, message in last.items()})
        self._counts.count(chain.from_iterable(accepted.values()), others, self._moved)
        batch.seal({s: self._position(s, self._read_to[s]) for s in {*concluded, *last} - self._moved})
        self._resume()

    def _field_counts(self, wall_ms: int) -> Sequence[tuple[str, bytes | None]]:
        """For serve, on the next message after each look."""
        if not self._presence.counts:
            return ()
        counts, self._presence.counts = self._presence.counts, {}
        return [(field_counts.HEADER, field_counts.FieldCounts(wall_ms, counts).pack())]

    def _send_dead_letter(self, batch: InFlightBatch, rejection: Rejection, message: Any) -> None:
        kind, timestamp = message.timestamp()
        letter = dead_letter(
            rejection,
            message.key(),
            message.value(),
            message.topic(),
            message.partition(),
            message.offset(),
            timestamp=timestamp if kind else None,
            headers=message.headers(),
            max_bytes=self._topics.dead_letter_max_bytes,
            source_name=self._ids.source_of(message.topic()),
        )
        batch.sent()
        self._producer.produce(
            self._topics.dead_letters,
            letter.value,
            key=letter.key,
            headers=letter.headers,
            on_delivery=batch.on_delivery,
        )

    def _commit(self) -> None:
        """Step 4."""
        self._commits.add(self._in_flight.take_done())
        self._commits.commit(self._consumer)

    def _may_commit(self, source: Source, position: RawPosition) -> bool:
        """A partition that moved away is its new owner's to commit; a topic made anew has other offsets."""
        return source in self._assigned and position.topic_id == self._ids.get(source[0])

    def _position(self, source: Source, read_to: int) -> RawPosition:
        """Where a reader that starts anew judges all that is not decided."""
        held = self._judge.first_held(source)
        next_offset = read_to if held is None else held
        counts = self._counts.upto(source, next_offset)
        return RawPosition(next_offset, self._judge.state(source), self._ids.get(source[0]), counts)

    def _look_at_topics(self) -> None:
        """Whether each is there, and still the one that is read."""
        self._read_anew(self._ids.look({topic for topic, _ in self._assigned}))

    def _made_anew(self, topic: str) -> bool:
        """Whether that is why reading fails; then it is read from its beginning."""
        anew = self._ids.made_anew(topic)
        self._read_anew(anew)
        return bool(anew)

    def _read_anew(self, ids: Mapping[str, str]) -> None:
        """These topics were made anew since this client read them: all is read on by another one.

        librdkafka keeps to the newest leader epoch that it has seen of a partition. The new topic's begin at 0 again:
        where the broker was ever restarted it would read nothing of it, and say nothing.

        Args:
            ids: {topic: id} of the new ones.
        """
        if not ids:
            return
        self._ids.begin_anew(ids)
        self._backlog = []
        if not leave(self._consumer):  # commits the rest
            raise BrokerError(
                "the consumer of another topic of the same name does not close",
                action="a role under `anchorstream up` or Kubernetes starts anew by itself; else start it again",
                code="group_not_left",
            )
        self._commits.new_consumer()
        self._ids.new_consumer()
        self._consumer = self._new_consumer()
        self._join()

    def _drain(self) -> None:
        """Wait for every acknowledgement, then commit and wait for the broker's answer."""
        self._producer.flush(DRAIN_SECONDS)
        self._commits.add(self._in_flight.take_done())
        self._commits.commit_and_wait(self._consumer)

    def _stay_in_group(self) -> None:
        """The producer is blocked: take no more input, but keep polling so that the group does not drop us."""
        obey(self._stop)
        if not self._paused:
            self._paused = True
            log.info(logs.INPUT_PAUSED, reason="producer blocked")
        self._consumer.pause(self._consumer.assignment())
        # what was fetched before the pause still arrives
        if (message := self._consumer.poll(0)) is not None:
            self._backlog.append(message)

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._consumer.resume(
                [tp for tp in self._consumer.assignment() if (tp.topic, tp.partition) not in self._full]
            )
            log.info(logs.INPUT_RESUMED)

    def _on_assign(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        positions = self._starts.find(consumer, partitions, self._stop)
        self._read_to.update({(tp.topic, tp.partition): tp.offset for tp in positions})
        consumer.incremental_assign(positions)
        consumer.resume(partitions)  # librdkafka keeps a partition paused over its next assignment
        self._assigned.update((tp.topic, tp.partition) for tp in partitions)
        self._merge.give((tp.topic, tp.partition) for tp in partitions)
        self._full -= {(tp.topic, tp.partition) for tp in partitions}
        log.info(logs.PARTITIONS_ASSIGNED, partitions=[f"{tp.topic}:{tp.partition}" for tp in partitions])
        if not self._ready:
            self._ready = True
            self._on_ready()

    def _on_revoke(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        self._drain()
        self._on_lost(consumer, partitions)

    def _on_lost(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        gone = {(tp.topic, tp.partition) for tp in partitions}
        self._backlog = [message for message in self._backlog if (message.topic(), message.partition()) not in gone]
        for source in gone:
            self._assigned.discard(source)
            self._judge.forget(source)
            self._merge.forget([source])
            self._ended.pop(source, None)
            self._moved.add(source)
        consumer.incremental_unassign(partitions)
        log.info(logs.PARTITIONS_REVOKED, partitions=[f"{tp.topic}:{tp.partition}" for tp in partitions])
