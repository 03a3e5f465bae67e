"""A standby follows partitions of others, hands its buffer over and takes it back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.brokers.process import EmbeddedBroker
from store.base.errors import StateError
from store.buffer.token_buffer import TokenBuffer
from store.window.encoded_event import EncodedEvent
from stream.kafka.client import Connection
from stream.kafka.pacing import SafeProducer
from stream.token_log import standby as standby_module
from stream.token_log.standby import Standby
from stream.token_log.take_over import OwnedLog, take_over
from tests.models.events import event, open_buffer, resources
from tests.support.processes import wait_until

SHARED = resources()
TOPIC = "tokens"
PARTITIONS = 2


class Owner:
    """A processor that owns a partition of `tokens`."""

    def __init__(self, connection: Connection, buffer: TokenBuffer, partition: int) -> None:
        self.buffer = buffer
        self.producer = SafeProducer(connection)
        taken = take_over(connection, TOPIC, partition, buffer, self.producer)
        assert taken is not None
        self.log: OwnedLog = taken[0]
        self.restored = taken[1].rows
        self._offset = buffer.source_offset

    def write(self, *events: EncodedEvent) -> None:
        self._offset += 1
        changes = self.buffer.prepare(events, source_offset=self._offset)
        self.log.send(changes)
        self.producer.flush()
        self.buffer.commit(changes, log_offset=self.log.delivered())


class Rig:
    """Two owners, and a standby with its own directory."""

    def __init__(self, connection: Connection, path: Path) -> None:
        self.connection = connection
        self.path = path
        self.owners = [Owner(connection, open_buffer(path / f"owner-{p}", SHARED), p) for p in range(PARTITIONS)]
        self.followed: dict[int, TokenBuffer] = {}
        self.failures: list[Exception] = []
        self.standby = self.start()
        self.n = 0

    def start(self) -> Standby:
        return Standby(self.connection, TOPIC, range(PARTITIONS), self.open, on_failure=self.failures.append)

    def open(self, partition: int) -> TokenBuffer:
        buffer = self.followed[partition] = open_buffer(self.path / f"standby-{partition}", SHARED)
        return buffer

    def write(self, partition: int, batches: int = 5) -> None:
        for _ in range(batches):
            self.n += 1
            made = [
                event(f"u{self.n % 4}", "ab"[i % 2], 1000 + self.n, f"e{self.n}.{i}", offset=self.n) for i in range(6)
            ]
            self.owners[partition].write(*made)

    def caught_up(self, *partitions: int) -> bool:
        return all(
            p in self.followed and self.followed[p].log_offset == self.owners[p].buffer.log_offset for p in partitions
        )

    def wait(self, *partitions: int) -> None:
        wait_until(lambda: self.caught_up(*partitions), f"partitions {partitions} are followed")


@pytest.fixture
def rig(embedded_broker: EmbeddedBroker, tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(embedded_broker.connection, tmp_path)
    yield rig
    rig.standby.close()
    for owner in rig.owners:
        owner.buffer.close()


def test_a_take_over_from_the_standby_reads_nothing_again(rig: Rig) -> None:
    for partition in range(PARTITIONS):
        rig.write(partition)
    rig.wait(0, 1)
    rig.write(0)
    rig.wait(0)
    buffer = rig.standby.take(0)
    assert buffer is rig.followed[0]
    new = Owner(rig.connection, buffer, 0)
    assert new.restored == 0
    assert new.log.owner > rig.owners[0].log.owner
    assert dict(buffer.rows()) == dict(rig.owners[0].buffer.rows())
    rig.write(1)
    rig.wait(1), "goes on with the others"
    new.write(event("late", "a", 1010, "late", offset=1))
    buffer.close()


def test_it_takes_a_partition_back_and_goes_on(rig: Rig) -> None:
    rig.write(0)
    rig.wait(0)
    mine = rig.standby.take(0)
    assert mine is not None
    rig.write(0, batches=20)
    assert not rig.caught_up(0)
    rig.standby.give(0, mine)
    rig.wait(0)
    assert dict(mine.rows()) == dict(rig.owners[0].buffer.rows())


def test_what_it_followed_is_the_state_of_a_restore(rig: Rig) -> None:
    """Invariant 2: caught up in one go, or row by row, or in several lives: the same buffer, ready to go on."""
    rig.write(0)
    rig.wait(0)
    rig.write(0, batches=30)
    rig.wait(0)
    rig.standby.close()
    rig.write(0)
    rig.standby = rig.start()
    rig.wait(0)
    buffer = rig.standby.take(0)
    assert buffer is not None
    new = Owner(rig.connection, buffer, 0)
    assert new.restored == 0
    for owner in (new, rig.owners[0]):  # the former owner does not know yet
        changes = owner.buffer.prepare([event("u1", "a", 3000, "last", offset=9)], source_offset=99)
        owner.buffer.commit(changes, log_offset=owner.buffer.log_offset)
    assert dict(buffer.rows()) == dict(rig.owners[0].buffer.rows())
    buffer.close()


def test_a_zombie_is_not_followed(rig: Rig) -> None:
    rig.write(0)
    former = rig.owners[0]
    asleep = former.buffer.prepare([event("u1", "a", 1100, "zombie", offset=9)], source_offset=99)
    rig.owners[0] = Owner(rig.connection, open_buffer(rig.path / "next", SHARED), 0)
    rig.write(0)
    former.log.send(asleep)
    former.producer.flush()
    rig.write(0)
    rig.wait(0)
    assert dict(rig.followed[0].rows()) == dict(rig.owners[0].buffer.rows())
    former.buffer.close()


def test_what_it_cannot_open_it_leaves_to_the_take_over(
    embedded_broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby_module, "RETRY_SECONDS", 0.2)
    other = open_buffer(tmp_path / "standby-0", SHARED)  # its lock is held
    rig = Rig(embedded_broker.connection, tmp_path)
    rig.write(0)
    rig.write(1)
    rig.wait(1)
    assert 0 not in rig.followed
    assert rig.standby.take(0) is None
    rig.write(1)
    rig.wait(1)
    with pytest.raises(StateError):
        rig.open(0)
    other.close()
    rig.standby.give(0, rig.open(0))
    rig.wait(0)
    rig.standby.close()
    for owner in rig.owners:
        owner.buffer.close()


def test_a_partition_that_failed_is_tried_again(
    embedded_broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby_module, "RETRY_SECONDS", 0.2)
    other = open_buffer(tmp_path / "standby-0", SHARED)
    rig = Rig(embedded_broker.connection, tmp_path)
    rig.write(0)
    rig.wait(1)
    other.close()
    rig.wait(0)
    rig.standby.close()
    for owner in rig.owners:
        owner.buffer.close()


def test_a_failure_that_must_not_happen_reaches_the_processor(
    embedded_broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[Exception] = []
    monkeypatch.setattr("threading.excepthook", lambda args: None)
    broken: Callable[[int], TokenBuffer] = lambda partition: {}[partition]  # noqa: E731
    standby = Standby(embedded_broker.connection, TOPIC, [0], broken, on_failure=failures.append)
    wait_until(lambda: bool(failures), "reported")
    assert isinstance(failures[0], KeyError)
    with pytest.raises(RuntimeError, match="ended"):
        standby.take(0)
    standby.close()
