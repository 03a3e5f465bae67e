"""Where our groups go on reading, what is lost to them, and setting them where they can go on."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

from confluent_kafka import KafkaException, TopicPartition

from deploy.settings.config import Settings
from store.base.errors import BrokerError, ConfigError, NotFoundError
from stream.commit_metadata import decode, encode
from stream.kafka.client import Connection
from stream.kafka.lasting_admin import LastingAdmin
from stream.kafka.patience import patiently
from stream.kafka.positions import RESETTABLE
from stream.kafka.topic_ids import TopicIds
from stream.lag.group_offsets import GroupOffsets
from stream.lag.reader import GroupTopic, plan
from stream.raw_counts import read_counts
from stream.topics import Topics

ANSWER_SECONDS = 10.0
EARLIEST, LATEST = "earliest", "latest"

CONSEQUENCES = {
    "ingest": "raw messages that are passed over never become events; what is read again is judged again, and dropped "
    "as a duplicate where it is still in the window",
    "processor": "packs that are passed over never reach a window, though ingest has accepted them: replay their "
    "source; what a buffer has applied it does not apply again, wherever the group stands",
    "worker": "every user of these partitions is computed again (a back-fill)",
    "freshness": "accepted events that are passed over are not waited for by `pending_events` and freshness; "
    "embeddings are not touched",
}
"""Of a reset, for people."""


@dataclass(frozen=True, slots=True)
class Position:
    """One partition of a group. committed: next offset, None = never; start, end: of what the broker has."""

    role: str
    group: str
    topic: str
    partition: int
    committed: int | None
    start: int
    end: int
    metadata: str = ""

    @property
    def lost(self) -> int:
        """Messages that were removed unread; of a topic that was made anew nobody can tell."""
        return 0 if self.committed is None else max(0, self.start - self.committed)

    @property
    def status(self) -> str:
        """ok, none (never committed), lost (its next message is gone), or ahead (beyond the end)."""
        if self.committed is None:
            return "none"
        return "lost" if self.lost else "ahead" if self.committed > self.end else "ok"


@dataclass(frozen=True, slots=True)
class Move:
    """Where a position is set to. skipped: messages there are that will not be read; again: that are read again."""

    position: Position
    to: int
    skipped: int
    again: int


def moves(positions: Iterable[Position], to: str, *, every: bool) -> list[Move]:
    """What a reset does: to the partitions that cannot go on, or, with `every`, to all. Pure.

    Args:
        to: EARLIEST, LATEST or an offset; it must lie within what the broker has.

    Raises:
        ConfigError: it does not.
    """
    made = []
    for position in positions:
        if not every and position.status not in ("lost", "ahead"):
            continue
        start, end = position.start, position.end
        offset = {EARLIEST: start, LATEST: end}.get(to, -1)
        if offset < 0:
            offset = int(to) if to.isascii() and to.isdigit() else -1
        if not start <= offset <= end:
            raise ConfigError(
                f"{position.topic}:{position.partition} has the offsets {start} to {end}, not {to}",
                action="--to earliest, latest, or an offset between them",
            )
        read_from = start if position.committed is None or position.status == "ahead" else position.committed
        read_from = max(read_from, start)
        made.append(Move(position, offset, max(0, offset - read_from), max(0, read_from - offset)))
    return made


class GroupPositions:
    """Asks a broker, and sets. Close it.

    Raises:
        ConfigError: an embedded broker, whose groups live and end with it.
    """

    def __init__(self, connection: Connection, settings: Settings) -> None:
        if connection.embedded:
            raise ConfigError(
                "an embedded broker's positions live and end with it",
                action="stop `anchorstream up` and start it again",
            )
        self._connection = connection
        raw = {modality.topic for modality in settings.modalities.values()}
        self._plan = plan(Topics(settings.kafka), raw, settings.scenario_names)
        self._groups = GroupOffsets(connection, LastingAdmin(connection), timeout_seconds=ANSWER_SECONDS)

    def close(self) -> None:
        """Release the clients."""
        self._groups.close()

    def read(self, role: str | None = None) -> list[Position]:
        """Every partition of every group, or of one role.

        Raises:
            NotFoundError: no such role. BrokerError: the broker does not tell.
        """
        wanted = [target for target in self._plan if role in (None, target.role)]
        if not wanted:
            roles = dict.fromkeys(target.role for target in self._plan)
            raise NotFoundError(f"no group of a role {role!r}", action=f"one of: {', '.join(roles)}")
        there = {name: len(topic.partitions) for name, topic in self._connection.metadata().topics.items()}
        try:
            return [p for target in wanted for p in self._of(target, there.get(target.topic, 0))]
        except KafkaException as exc:
            raise self._refused(exc) from exc

    def set(self, made: Sequence[Move]) -> None:
        """Commit the moves of one role, all at once.

        Raises:
            ConfigError: its group has members, or its commits do not say where it goes on. BrokerError.
        """
        if not made:
            return
        group, role = made[0].position.group, made[0].position.role
        self.check(role, group)
        try:
            ids = TopicIds(self._connection).ask({move.position.topic for move in made})
            with closing(self._connection.consumer(group)) as consumer:
                consumer.commit(offsets=[_commit(move, ids) for move in made], asynchronous=False)
        except KafkaException as exc:
            raise self._refused(exc) from exc

    def check(self, role: str, group: str) -> None:
        """Whether the group may be set now. Raises ConfigError: it may not."""
        if role not in RESETTABLE:
            raise ConfigError(
                f"the commits of {role} do not say where it goes on: its snapshots do, or its topics",
                action=f"stop it, remove the folder {role} of store.data_dir and nothing else there, and start it: "
                "it reads its topics anew",
            )
        if members := self._groups.members([group])[group]:
            raise ConfigError(
                f"the group {group} has {members} member(s): they would go on where they are, and commit it",
                action=f"stop every {role if role != 'freshness' else 'serve'} first, on every machine",
            )

    def _of(self, target: GroupTopic, partitions: int) -> list[Position]:
        asked = [TopicPartition(target.topic, n) for n in range(partitions)]
        if not asked:
            return []
        found = []
        with closing(self._connection.consumer(target.group)) as consumer:
            never = threading.Event()
            for tp in patiently(lambda: consumer.committed(asked, timeout=ANSWER_SECONDS), never):
                if tp.error is not None:
                    raise KafkaException(tp.error)
                where = TopicPartition(tp.topic, tp.partition)
                start, end = consumer.get_watermark_offsets(where, timeout=ANSWER_SECONDS, cached=False)
                committed = tp.offset if tp.offset >= 0 else None
                found.append(
                    Position(
                        target.role, target.group, tp.topic, tp.partition, committed, start, end, tp.metadata or ""
                    )
                )
        return found

    def _refused(self, exc: KafkaException) -> BrokerError:
        return BrokerError(
            f"the broker at {self._connection.bootstrap} refused: {exc.args[0].str()}",
            action="check that it runs, that the role is stopped everywhere, and that this user may read the group",
        )


def _commit(move: Move, ids: dict[str, str]) -> TopicPartition:
    position = move.position
    metadata: dict[str, str | int | None] = {"topic": ids.get(position.topic)}
    if position.role == "worker":  # no standing: everybody is computed again
        metadata = {}
    elif position.status != "ahead" and move.to >= (position.committed or 0):
        kept: dict[str, str | int | None] = {**decode(position.metadata)}  # the clock is the newest that is known
        if position.committed is not None and (counts := read_counts(position.metadata)) is not None:
            kept |= counts.passing_over(move.to - position.committed).fields()
        metadata = kept | metadata
    return TopicPartition(position.topic, position.partition, move.to, encode(metadata))
