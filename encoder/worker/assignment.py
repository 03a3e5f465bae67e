"""The partitions of `tokens` that the group gave to this worker: their replicas, positions and back-fills."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from encoder.worker.back_fill import PartitionBackFill
from encoder.worker.silence_rounds import SilenceRounds
from encoder.worker.targets import Target, unpack
from store.base import fault
from store.base.errors import DataLossError
from store.buffer.token_buffer import TokenBuffer
from store.window.silence import SilenceTicks
from stream.commit_metadata import Waiting, read_horizon, with_waiting, without_waiting
from stream.kafka.membership import Rebalance
from stream.kafka.patience import passes, patiently
from stream.kafka.positions import REBUILD
from stream.token_log.catch_up import NEAR_ROWS, CatchUp
from stream.token_log.reader import LogReader

ANSWER_SECONDS = 30
_COMMIT_LATER = {KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID}


class Assignment:
    """One partition.

    end: of the log when it was given; below it another member may have published. published: everything below this
    offset was published before. back_fill, silence: of its users.
    """

    def __init__(
        self,
        partition: int,
        buffer: TokenBuffer,
        found: Any,
        end: int,
        targets: Sequence[Target],
        ticks: SilenceTicks,
    ) -> None:
        """found: TopicPartition with the committed offset and metadata."""
        self.partition = partition
        self.buffer = buffer
        self.end = end
        self.published = max(int(found.offset), 0)
        new = found.offset < 0 and buffer.log_offset == 0
        self.silence = SilenceRounds(buffer, ticks, read_horizon(found.metadata))
        self.back_fill = PartitionBackFill(
            buffer, unpack(found.metadata), targets, new=new, window_of=self.silence.window
        )
        self.caught_up = False
        self.waiting = Waiting(0)
        """To be told with each commit."""
        self.fenced_until: float | None = None
        """Not None: nothing can be published until it is renewed, then or later; seconds, monotonic."""
        self._committed: tuple[int, str | None] | None = (found.offset, found.metadata) if found.offset >= 0 else None
        # marks from before another member had the partition
        buffer.dirty.clear([user.user_id for user in buffer.dirty], upto=self.published)

    @property
    def position(self) -> int:
        """W5: everything below this offset of `tokens` is in the embeddings."""
        oldest = self.buffer.dirty.oldest_offset()
        read = self.buffer.log_offset if oldest is None else oldest
        return max(self.published, read)

    def position_after(self, users: Collection[str], upto: int) -> int:
        """`position` once these users' marks have been cleared `upto`."""
        oldest = self.buffer.dirty.oldest_offset(without=users, upto=upto)
        return max(self.published, self.buffer.log_offset if oldest is None else oldest)

    @property
    def announced(self) -> bool:
        """B1: whether the standings of the back-fills are committed."""
        return self._committed is not None and without_waiting(self._committed[1]) == self.back_fill.metadata

    @property
    def metadata(self) -> str:
        """Of the offset to be committed: the standings of the back-fills, who waits, and how far time has passed."""
        return with_waiting(self.back_fill.metadata, self.waiting, self.silence.position)

    @property
    def usable(self) -> bool:
        """Whether the replica has read what was in the log when it was given, and nobody has fenced it since."""
        return self.caught_up and self.fenced_until is None

    @property
    def ready(self) -> bool:
        """Whether embeddings of its users may be published.

        Another member may have published embeddings of what a replica has not yet read: older ones must not follow
        them. And somebody who computes other targets must not take ours for his.
        """
        return self.usable and self.announced

    def fenced(self, *, until: float) -> None:
        """Its transaction was refused: nothing of it is committed either until it is renewed."""
        self.fenced_until = until

    def due(self) -> tuple[int, str] | None:
        """What has to be committed; None if it is."""
        if self.fenced_until is not None:
            return None
        wanted = self.position, self.metadata
        return None if wanted == self._committed else wanted

    def committed(self, what: tuple[int, str] | None) -> None:
        """`due` was committed; None: perhaps not."""
        self._committed = what


class Assignments:
    """All of them. For the worker's thread.

    Args:
        consumer: of the worker's group, subscribed by the caller.
        catch_up: reads those that are far behind; the group's consumer is to be paused there.
        open_buffer: opens the replica of a partition.
        ticks: of users who are silent.
    """

    def __init__(
        self,
        consumer: Any,
        catch_up: CatchUp,
        topic: str,
        open_buffer: Callable[[int], TokenBuffer],
        ticks: SilenceTicks,
    ) -> None:
        self.reader = LogReader(consumer, topic)
        self.catch_up = catch_up
        self._consumer = consumer
        self._topic = topic
        self._open_buffer = open_buffer
        self._ticks = ticks
        self._mine: dict[int, Assignment] = {}
        self._rebalance = Rebalance("worker")

    def __iter__(self) -> Iterator[Assignment]:
        return iter(list(self._mine.values()))

    def __len__(self) -> int:
        return len(self._mine)

    def get(self, partition: int) -> Assignment | None:
        """None where the partition is not ours."""
        return self._mine.get(partition)

    def given(self, partitions: Sequence[int], targets: Sequence[Target]) -> tuple[list[TopicPartition], float]:
        """Open partitions.

        Returns:
            Where to read on, and how long, in seconds, the partitions were not ours.

        Raises:
            KafkaException: the broker did not answer. DataLossError, StateError: a replica cannot be continued.
        """
        away = self._rebalance.given()
        return self._take(partitions, targets, self._open_buffer), away

    def renew(self, partition: int, targets: Sequence[Target]) -> None:
        """Take on anew a partition that stayed ours, with its replica: another member may have published meanwhile.

        Raises:
            KafkaException: the broker did not answer.
        """
        self._rebalance.given()
        buffer = self._mine[partition].buffer
        self._take([partition], targets, lambda _: buffer, far=False)  # reading goes on where it is

    def _take(
        self,
        partitions: Sequence[int],
        targets: Sequence[Target],
        buffer_of: Callable[[int], TokenBuffer],
        *,
        far: bool = True,
    ) -> list[TopicPartition]:
        positions = []
        asked = [TopicPartition(self._topic, partition) for partition in partitions]
        never = threading.Event()
        # a coordinator that is being elected, or a broker that comes back, is waited for
        for found in patiently(lambda: self._consumer.committed(asked, timeout=ANSWER_SECONDS), never):
            tp = TopicPartition(self._topic, found.partition)
            buffer = buffer_of(found.partition)
            end = patiently(
                partial(self._consumer.get_watermark_offsets, tp, timeout=ANSWER_SECONDS, cached=False), never
            )[1]
            if found.offset > end:  # else nobody would be refreshed until the log is as long
                raise DataLossError(
                    f"{self._topic}:{found.partition}: the worker's group has committed {found.offset}, but the topic "
                    f"ends at {end}: it was deleted and made anew, or the broker lost its disk",
                    action=f"{REBUILD}; where only the group's offset is wrong, with every worker stopped: "
                    "`anchorstream offsets reset worker --to earliest`",
                )
            assignment = Assignment(found.partition, buffer, found, end, targets, self._ticks)
            self._mine[found.partition] = assignment
            mark_from = assignment.published
            if far and end - buffer.log_offset > NEAR_ROWS:
                positions.append(self.catch_up.add(found.partition, buffer, end=end, mark_from=mark_from))
            else:
                positions.append(self.reader.add(found.partition, buffer, mark_from=mark_from))
        return positions

    def release(self, partitions: Iterable[int], *, commit: bool) -> list[Assignment]:
        """Let partitions go; the caller closes their buffers."""
        self._rebalance.lost()
        mine = [self._mine[partition] for partition in partitions if partition in self._mine]
        if commit:
            self._commit(mine)
        for assignment in mine:
            del self._mine[assignment.partition]
            self.catch_up.remove(assignment.partition)
            self.reader.remove(assignment.partition)
        return mine

    def advance(self) -> list[Assignment]:
        """Those that have become usable since the last call."""
        for partition in self.catch_up.near():
            self._follow(self._mine[partition])
        out = []
        for assignment in self._mine.values():
            if not assignment.caught_up and assignment.partition not in self.catch_up:
                assignment.caught_up = assignment.buffer.log_offset >= assignment.end
                if assignment.caught_up:
                    assignment.back_fill.begin()
                    self._rebalance.usable(assignment.partition)
                    out.append(assignment)
        return out

    @property
    def usable(self) -> set[int]:
        """Partitions that are."""
        return {partition for partition, assignment in self._mine.items() if assignment.usable}

    @property
    def ready(self) -> bool:
        """Whether embeddings of every usable partition may be published, if there is one."""
        usable = [assignment for assignment in self._mine.values() if assignment.usable]
        return bool(usable) and all(assignment.ready for assignment in usable)

    @property
    def announced(self) -> bool:
        """Whether every standing is committed."""
        return all(assignment.announced for assignment in self._mine.values())

    def commit(self) -> None:
        """W5, B1, B5. What cannot be committed now, because the group is being rebalanced, is tried again.

        Raises:
            KafkaException: the broker failed for good.
        """
        self._commit(self._mine.values())

    def _follow(self, assignment: Assignment) -> None:
        """From here on the group's consumer reads it."""
        partition, buffer = assignment.partition, assignment.buffer
        position = TopicPartition(self._topic, partition, buffer.log_offset)
        try:
            self._consumer.seek(position)
        except KafkaException as exc:
            if exc.args[0].code() != KafkaError._STATE:  # noqa: SLF001
                raise
            return  # it has not begun to fetch: the next time
        self.catch_up.remove(partition)
        self.reader.add(partition, buffer, mark_from=assignment.published)
        self._consumer.resume([position])

    def _commit(self, assignments: Iterable[Assignment]) -> None:
        due = [(assignment, what) for assignment in assignments if (what := assignment.due()) is not None]
        if not due:
            return
        offsets = [TopicPartition(self._topic, a.partition, position, text) for a, (position, text) in due]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as exc:
            if exc.args[0].code() not in _COMMIT_LATER and not passes(exc.args[0]):
                raise
            for assignment, _ in due:
                assignment.committed(None)
            return
        news = [assignment for assignment, _ in due if not assignment.announced]
        for assignment, what in due:
            assignment.committed(what)
        if news:
            fault.point("back_fill.1" if any(a.back_fill.unfinished for a in news) else "back_fill.5")
        fault.point("worker.5")
