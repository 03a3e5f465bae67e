"""Verdicts on raw messages. Those on what lies ahead of its stream wait for what follows. Pure but for the messages.

Of a partition whose clock is the stream's, messages that are ahead are held until one of four:

    an event that is not ahead      the stream goes on where it was: they are refused, `ts_ahead_of_stream`
    AGREE in a row                  the clock begins anew where they say, and they are judged again
    the end, for a while            `conclude`: a clock that never began begins, and so does one anew where others are
                                    already; what is ahead of them as well is refused
    MAX_HELD_BYTES                  as at the end

The one exception is asked for: a message with the header RESET_CLOCK that is too old takes its stream's clock away.

Whoever commits offsets commits none from the first held message on, so a reader that starts anew judges the same.
Where the end is not waited at, verdicts are a function of the partition's messages alone (docs/adr/0004).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from store.base import logs
from stream.clock import RESET_CLOCK, ClockState, EventClock, Source
from stream.events.event import Event
from stream.events.validate import Validator
from stream.rejection import ErrorCode, Rejection, Skipped
from stream.settings import Clock

MAX_HELD_BYTES = 8 * 1024 * 1024
"""Of one partition; at most one message more."""

Verdict = tuple[Any, Event | Rejection | Skipped]
"""A raw message and what it is."""

log = logs.get(__name__)


class _Held:
    __slots__ = ("bytes", "messages")

    def __init__(self) -> None:
        self.messages: list[tuple[Any, Event | Rejection]] = []  # an event: an erasure
        self.bytes = 0


class Judge:
    """Judges messages in the order they are read. `validator` and `clock` belong together."""

    def __init__(self, validator: Validator, clock: EventClock) -> None:
        self._validator = validator
        self._clock = clock
        self._held: dict[Source, _Held] = {}

    def judge(self, messages: Iterable[Any], wall_ms: int, *, may_reset: bool = True) -> Iterator[Verdict]:
        """What is decided by these messages, in order within each partition but for what no clock decides.

        may_reset: heed RESET_CLOCK.
        """
        validate, held = self._validator.validate, self._held
        for message in messages:
            topic, partition = message.topic(), message.partition()
            kind, produced_at = message.timestamp()
            value = message.value()
            produced_at = produced_at if kind else wall_ms
            if not value:
                result = validate(value, topic, partition, message.offset(), produced_at, wall_ms, message.key())
                if result.__class__ is Event and (topic, partition) in held:
                    # it says nothing of its stream's time; what was held before it is decided first
                    held[topic, partition].messages.append((message, result))
                else:
                    yield message, result
                continue
            result = validate(value, topic, partition, message.offset(), produced_at, wall_ms)
            if result.__class__ is Rejection and result.code is ErrorCode.TS_AHEAD_OF_STREAM:
                yield from self._hold((topic, partition), message, result, wall_ms)
                continue
            if may_reset and self._resets(message, result):
                source = (topic, partition)
                yield from self._refuse(source)
                self._clock.restore(source, ClockState())
                yield from self.judge([message], wall_ms, may_reset=False)
                continue
            if held and (topic, partition) in held and not self._clock.in_a_row((topic, partition)):
                yield from self._refuse((topic, partition))
            yield message, result

    def begin(self, source: Source, times: Sequence[int], wall_ms: int) -> None:
        """The times of the next messages of a partition are known; where it has no clock yet, they start it."""
        if source not in self._held:
            self._clock.begin(source, times, wall_ms)

    def conclude(self, source: Source, wall_ms: int) -> Iterator[Verdict]:
        """Decide what is held of a partition with what is there."""
        if source in self._held and (self._clock.get(source) is None or self._clock.corroborate(source)):
            yield from self._settle(source, wall_ms)
        yield from self._refuse(source)

    def held(self) -> Iterable[Source]:
        """Partitions of which something is held."""
        return self._held.keys()

    def first_held(self, source: Source) -> int | None:
        """Offset of the first held message: the last one that may be committed."""
        held = self._held.get(source)
        return None if held is None else held.messages[0][0].offset()

    def state(self, source: Source) -> ClockState:
        """The clock before the first held message."""
        held = self._held.get(source)
        ahead = 0 if held is None else sum(result.__class__ is Rejection for _, result in held.messages)
        return self._clock.state(source, without=ahead)

    def restore(self, source: Source, state: ClockState) -> None:
        """Read on at a committed offset; nothing is held."""
        self._held.pop(source, None)
        self._clock.restore(source, state)

    def forget(self, source: Source) -> None:
        """The partition is read by somebody else."""
        self._held.pop(source, None)

    def _hold(self, source: Source, message: Any, rejection: Rejection, wall_ms: int) -> Iterator[Verdict]:
        held = self._held.setdefault(source, _Held())
        held.messages.append((message, rejection))
        held.bytes += len(message.value())
        if self._clock.agreed(source):
            yield from self._settle(source, wall_ms)
        elif held.bytes > MAX_HELD_BYTES:
            yield from self.conclude(source, wall_ms)

    def _settle(self, source: Source, wall_ms: int) -> Iterator[Verdict]:
        before = self._clock.get(source)
        self._clock.settle(source)
        if before is not None:
            log.warning(logs.CLOCK_MOVED, source=f"{source[0]}:{source[1]}", before=before, now=self._clock.get(source))
        messages = self._held.pop(source).messages
        yield from self.judge([message for message, _ in messages], wall_ms, may_reset=False)
        self._clock.settled(source)

    def _resets(self, message: Any, result: Event | Rejection | Skipped) -> bool:
        return (
            result.__class__ is Rejection
            and result.code is ErrorCode.TS_TOO_OLD
            and self._clock.mode is Clock.STREAM
            and RESET_CLOCK in (message.headers() or ())
        )

    def _refuse(self, source: Source) -> Iterator[Verdict]:
        if (held := self._held.pop(source, None)) is not None:
            yield from held.messages
