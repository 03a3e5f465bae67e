"""Dead letters go back to where they came from: `anchorstream dead-letters replay`.

    1  order   read the dead-letter topic once: which letters match and are not marked as replayed, in source order
    2  mend    a script, if there is one, says what each value should be
    3  judge   by ingest's rules under today's configuration; what would be refused again stays
    4  send    to the source topic and partition, same key; a missing `event_id` is the one ingest would have derived
    5  mark    after the broker acknowledged a batch: marks in the dead-letter topic (replay_marks.py)

Killed between 4 and 5, the letters are sent again, and every one is a duplicate: that is what the id is for. The order
among what has arrived since does not matter to the token buffer (docs/architecture.md).
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Protocol

from confluent_kafka import KafkaException, TopicPartition

from store.base.errors import BrokerError, ScriptError
from store.base.settings import ModalitySettings
from store.base.stop import Stopped, obey
from stream.clock import RESET_CLOCK, EventClock, Source, read_clock
from stream.dead_letter import REPLAYED
from stream.dead_letters.lines import Answer
from stream.dead_letters.order import Group, LetterOrder, Place
from stream.dead_letters.replay_marks import pack_replay_marks
from stream.dead_letters.target import LEFT, REMOVED, SKIPPED, Left, Target, Targets
from stream.kafka.client import Connection
from stream.kafka.pacing import SafeProducer
from stream.settings import Clock, IngestSettings, MappingSettings
from stream.topics import Topics

BATCH_LETTERS = 1000
"""Sent between two waits for acknowledgement; also what is sent twice after a kill."""
FLUSH_SECONDS = 120.0
SHOWN_LEFT = 10
_REPLAYED = [(REPLAYED, b"1")]
_TIMEOUT_SECONDS = 10.0

OnProgress = Callable[[str, int, int], object]
"""Called with (what is done, how many are done, how many there are)."""


Mended = Generator[tuple[Group, Answer], None, None]


class Mender(Protocol):
    """What may change values; `stream.dead_letters.script.LetterScript` is one."""

    def mend(self, groups: Iterator[Group]) -> Mended:
        """Each group and what to replay of it, in order. Raises ScriptError."""
        ...


@dataclass(slots=True)
class LetterTally:
    """What became of the letters, each message counted once.

    matched: by error and topic. already: replayed before and passed over. replayed: acknowledged and marked (dry run:
    would be sent). left: by code, see LEFT and stream/rejection.py. shown: the first of these, (letter id, why).
    interrupted: `stop` was set before the last letter.
    """

    matched: int = 0
    already: int = 0
    replayed: int = 0
    left: Counter[str] = field(default_factory=Counter)
    shown: list[tuple[str, Left]] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False

    def leave(self, letter_id: str, why: Left) -> None:
        """A letter stays."""
        self.left[why.code] += 1
        if len(self.shown) < SHOWN_LEFT:
            self.shown.append((letter_id, why))

    @property
    def not_reached(self) -> int:
        """Letters beyond the limit, or after the interruption."""
        return max(0, self.matched - self.already - self.replayed - self.left.total())

    @property
    def complete(self) -> bool:
        """Whether nothing was left that nobody wanted left."""
        return not self.interrupted and not self.left.keys() - {SKIPPED}


@dataclass(frozen=True, slots=True)
class Choice:
    """Which letters. error, source_topic: None = any. limit: send at most so many. again: also those done before.
    reset_clock: let the clocks of their raw partitions begin anew with them."""

    error: str | None = None
    source_topic: str | None = None
    limit: int | None = None
    again: bool = False
    reset_clock: bool = False


class DeadLetterReplay:
    """One replay. Single-threaded; `stop` ends it after the letter in hand, with what was sent acknowledged."""

    def __init__(
        self,
        connection: Connection,
        topics: Topics,
        modalities: Mapping[str, ModalitySettings],
        settings: IngestSettings,
        *,
        mapping: Mapping[str, MappingSettings] | None = None,
        stop: threading.Event | None = None,
        on_progress: OnProgress = lambda _what, _done, _all: None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`mapping` is by raw topic. `wall` gives seconds since the epoch."""
        self._connection = connection
        self._topics = topics
        self._modalities = modalities
        self._settings = settings
        self._mapping = mapping
        self._stop = stop or threading.Event()
        self._on_progress = on_progress
        self._wall = wall
        self._producer: SafeProducer | None = None
        self._sent: list[tuple[Place, ...]] = []
        self._to_reset: set[Source] = set()
        self._tally = LetterTally()

    def run(self, choice: Choice, *, mender: Mender | None = None, dry_run: bool = False) -> LetterTally:
        """Replay what matches. Call once.

        Args:
            dry_run: do everything but send and mark.

        Raises:
            NotFoundError: there is no dead-letter topic.
            ScriptError: the script failed; what came before it was replayed and marked.
            BrokerError: the broker cannot be reached, or a letter was not acknowledged: its batch is not marked.
        """
        started = time.monotonic()
        tally = self._tally
        try:
            self._run(choice, mender, dry_run=dry_run)
        except Stopped:
            tally.interrupted = True
        except ScriptError as exc:
            self._settle()
            how = "would have been" if dry_run else "were"
            detail = f"{exc.detail}\n  {tally.replayed} letters before it {how} replayed"
            raise ScriptError(detail, action=exc.action) from exc
        self._settle()
        tally.seconds = time.monotonic() - started
        return tally

    def _run(self, choice: Choice, mender: Mender | None, *, dry_run: bool) -> None:
        def reading(done: int, of: int) -> None:
            obey(self._stop)
            self._on_progress("reading", done, of)

        order = LetterOrder.read(
            self._connection,
            self._topics.dead_letters,
            error=choice.error,
            source_topic=choice.source_topic,
            again=choice.again,
            on_progress=reading,
        )
        self._tally.matched = order.matched
        self._tally.already = 0 if choice.again else order.replayed
        partitions = self._partitions()
        sources = [s for s in order.sources() if s[1] < partitions.get(s[0], 0)]
        clock = self._clock([] if choice.reset_clock else sources)
        self._to_reset = set(sources) if choice.reset_clock else set()
        targets = Targets(self._topics, self._modalities, self._settings, partitions, clock, self._mapping)
        if not dry_run:
            self._producer = self._open()
        fit = self._fit(order, targets, scripted=mender is not None)
        with closing(_as_it_is(fit) if mender is None else mender.mend(fit)) as mended:
            self._replay(mended, targets, choice.limit)

    def _replay(self, mended: Iterator[tuple[Group, Answer]], targets: Targets, limit: int | None) -> None:
        for group, answer in mended:
            if limit is not None and self._tally.replayed + len(self._sent) >= limit:
                return
            obey(self._stop)
            if answer.skip:
                self._tally.leave(group.letter.id, Left(SKIPPED, answer.reason or LEFT[SKIPPED]))
                continue
            target = targets.target(group.letter, answer.value, int(self._wall() * 1000))
            if isinstance(target, Left):
                self._tally.leave(group.letter.id, target)
            else:
                self._send(group, target)
        obey(self._stop)

    def _fit(self, order: LetterOrder, targets: Targets, *, scripted: bool) -> Iterator[Group]:
        """Letters that have somewhere to go."""
        for done, group in enumerate(order.groups(), start=1):
            self._on_progress("replaying", done, len(order))
            if group is None:
                self._tally.leave("?", Left(REMOVED, LEFT[REMOVED]))
            elif (why := targets.unfit(group.letter, scripted=scripted)) is not None:
                self._tally.leave(group.letter.id, why)
            else:
                yield group

    def _send(self, group: Group, target: Target) -> None:
        headers = list(target.headers)
        if (source := (target.topic, target.partition)) in self._to_reset:
            self._to_reset.remove(source)
            headers.append(RESET_CLOCK)
        if self._producer is not None:
            self._producer.produce(
                target.topic, target.value, target.key, partition=target.partition, headers=headers or None
            )
        self._sent.append(group.places)
        if len(self._sent) >= BATCH_LETTERS:
            self._settle()

    def _settle(self) -> None:
        """Step 5: only now do the letters count."""
        sent, self._sent = self._sent, []
        if self._producer is not None and sent:
            self._producer.flush(FLUSH_SECONDS)
            offsets: defaultdict[int, list[int]] = defaultdict(list)
            for partition, offset in chain.from_iterable(sent):
                offsets[partition].append(offset)
            for partition, own in offsets.items():
                for value in pack_replay_marks(own):
                    self._producer.produce(self._topics.dead_letters, value, partition=partition, headers=_REPLAYED)
            self._producer.flush(FLUSH_SECONDS)
        self._tally.replayed += len(sent)

    def _open(self) -> SafeProducer:
        return SafeProducer(
            self._connection,
            self._topics.specs(self._modalities, ()),
            while_waiting=partial(obey, self._stop),
            config={"message.max.bytes": self._topics.dead_letter_max_bytes},
        )

    def _partitions(self) -> dict[str, int]:
        found = self._connection.metadata(timeout_s=_TIMEOUT_SECONDS).topics
        return {name: len(topic.partitions) for name, topic in found.items() if topic.error is None}

    def _clock(self, sources: list[tuple[str, int]]) -> EventClock:
        """Ingest's clock as it committed it."""
        clock = EventClock.of(self._settings, self._modalities, lenient=True)
        if self._settings.clock is Clock.STREAM and sources:
            consumer: Any = self._connection.consumer(self._topics.group_ingest)
            try:
                for tp in consumer.committed([TopicPartition(*s) for s in sources], timeout=_TIMEOUT_SECONDS):
                    clock.restore((tp.topic, tp.partition), read_clock(tp.metadata))
            except KafkaException as exc:
                raise BrokerError(
                    f"the committed offsets of {self._topics.group_ingest} cannot be read: {exc.args[0].str()}",
                    action="check that the broker runs (`anchorstream doctor`) and lets this user read the group",
                ) from exc
            finally:
                consumer.close()
        return clock


def _as_it_is(groups: Iterator[Group]) -> Mended:
    for group in groups:
        yield group, Answer(group.letter.value)
