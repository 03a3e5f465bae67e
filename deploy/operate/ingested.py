"""What ingest made of the messages that were published: read from its commits and from the dead letters."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from confluent_kafka import KafkaException

from store.base.errors import BrokerError
from stream.dead_letters import read as dead_letters
from stream.kafka.lasting_admin import LastingAdmin
from stream.kafka.patience import patiently
from stream.lag.group_offsets import GroupOffsets
from stream.lag.log_ends import LogEnds
from stream.topics import Topics

if TYPE_CHECKING:
    from deploy.settings.config import Settings
    from stream.kafka.client import Connection
    from stream.replay.replay import ReplayProgress

QUIET_SECONDS = 10.0
"""Ingest that commits nothing for so long does not run, or is held up; `lag` tells."""
_POLL_SECONDS = 0.25
_TIMEOUT_SECONDS = 10.0

Partition = tuple[str, int]


@dataclass(slots=True)
class Ingested:
    """Of the messages that lie between the raw topics' ends before and after the publishing, whoever sent them, and of
    what was put into dead letters at once.

    messages: how many there are. waiting: of these, how many ingest has not committed. refused: by code. skipped: as
    the mapping says, by reason. others: messages that somebody else sent. letters_gone: dead letters that an embedded
    broker has dropped already.
    """

    messages: int = 0
    waiting: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    others: int = 0
    letters_gone: int = 0

    @property
    def accepted(self) -> int | None:
        """Accepted, duplicates among them (the processor finds these); None while something waits or letters lack."""
        if self.waiting or self.letters_gone:
            return None
        return self.messages - self.refused.total() - self.skipped.total()

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "accepted": self.accepted,
            "refused": dict(self.refused.most_common()),
            "skipped": dict(self.skipped),
            "waiting": self.waiting,
            "others": self.others,
            "letters_gone": self.letters_gone,
        }


class IngestWatch:
    """Remembers where raw topics and dead letters end, and looks later what came of the rest; a context manager.

    Raises:
        BrokerError: the broker did not answer.
    """

    def __init__(self, connection: Connection, settings: Settings) -> None:
        topics = Topics(settings.kafka)
        self._connection = connection
        self._group = topics.group_ingest
        self._letters = topics.dead_letters
        self._raw = sorted({modality.topic for modality in settings.modalities.values()})
        admin = LastingAdmin(connection)
        self._log = LogEnds(connection, admin, timeout_seconds=_TIMEOUT_SECONDS)
        self._groups = GroupOffsets(connection, admin, timeout_seconds=_TIMEOUT_SECONDS)
        self._before = self._ends()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._groups.close()

    def wait(
        self,
        done: ReplayProgress,
        stop: threading.Event,
        on_progress: Callable[[int, int], object],
        *,
        wait: bool = True,
    ) -> Ingested:
        """Wait until ingest has committed all that was published; QUIET_SECONDS at most without a commit.

        Args:
            on_progress: called with (messages it has read, messages there are).
            wait: False: as it is now.

        Raises:
            BrokerError: the broker did not answer.
        """
        after = self._ends()
        spans = {
            place: (self._before.get(place, 0), end)
            for place, end in after.items()
            if place[0] in self._raw and end > self._before.get(place, 0)
        }
        found = Ingested(sum(end - begin for begin, end in spans.values()))
        found.waiting = self._wait(spans, found.messages, stop, on_progress, wait)
        # letters are acknowledged before what they tell of is committed
        found.refused, found.letters_gone = self._refused(spans, self._ends())
        found.others = found.messages - (done.sent - done.letters.total())
        found.messages += done.letters.total()
        found.refused.update(done.letters)
        found.skipped.update(done.passed_over)
        return found

    def _wait(
        self,
        spans: Mapping[Partition, tuple[int, int]],
        total: int,
        stop: threading.Event,
        on_progress: Callable[[int, int], object],
        wait: bool,
    ) -> int:
        waiting, since = total, time.monotonic()
        while waiting:
            committed = self._committed(spans)
            left = sum(end - min(max(committed.get(place, 0), begin), end) for place, (begin, end) in spans.items())
            if left < waiting:
                waiting, since = left, time.monotonic()
            on_progress(total - waiting, total)
            quiet = time.monotonic() - since > QUIET_SECONDS or self._groups.members([self._group])[self._group] == 0
            if not wait or quiet or stop.wait(_POLL_SECONDS):
                break
        return waiting

    def _ends(self) -> dict[Partition, int]:
        def ask() -> dict[Partition, int]:
            there = self._log.topics({*self._raw, self._letters}).partitions
            marks = self._log.watermarks({(topic, n) for topic, count in there.items() for n in range(count)})
            return {place: mark.high for place, mark in marks.items()}

        try:
            # a topic that was just made has no leader yet
            return patiently(ask, threading.Event(), seconds=_TIMEOUT_SECONDS)
        except KafkaException as exc:
            raise self._unanswered(exc) from exc

    def _committed(self, spans: Mapping[Partition, tuple[int, int]]) -> dict[Partition, int]:
        found, failed = self._groups.committed({self._group: list(spans)})
        if failed:
            raise self._unanswered(failed[self._group])
        return {place: commit.offset for place, commit in found[self._group].items()}

    def _refused(
        self, spans: Mapping[Partition, tuple[int, int]], after: Mapping[Partition, int]
    ) -> tuple[Counter[str], int]:
        """By code, and how many letters are no longer there. One refused twice (ingest was killed) counts once."""
        within = {
            n: (self._before.get((topic, n), 0), end) for (topic, n), end in after.items() if topic == self._letters
        }
        seen: set[tuple[Partition, int]] = set()
        codes: Counter[str] = Counter()
        read = 0
        for letter in dead_letters.scan(self._connection, self._letters, within=within):
            read += 1
            if not isinstance(letter, dead_letters.RefusedEvent):
                continue
            place = (letter.source_topic or "", -1 if letter.source_partition is None else letter.source_partition)
            begin, end = spans.get(place, (0, 0))
            at = letter.source_offset
            if at is not None and begin <= at < end and (place, at) not in seen:
                seen.add((place, at))
                codes[letter.error] += 1
        there = sum(end - begin for begin, end in within.values())
        return codes, there - read if self._connection.embedded else 0

    def _unanswered(self, exc: KafkaException) -> BrokerError:
        return BrokerError(
            f"the broker at {self._connection.bootstrap} did not tell its offsets: {exc.args[0].str()}",
            action="check that it runs (`anchorstream doctor`); what was published is safe",
        )
