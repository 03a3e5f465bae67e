"""Partitions are restored beside the batches: who comes first, what is given up, and that nothing stays locked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.brokers.process import EmbeddedBroker
from deploy.kafka.topics import ensure
from store.base.errors import StateError
from store.buffer.token_buffer import TokenBuffer
from stream.processor import openings as openings_module
from stream.processor.openings import Openings
from stream.processor.partition import PartitionConfig
from stream.settings import KafkaSettings
from stream.token_log.standby import Standby
from stream.topics import Topics
from tests.support import worker_bench
from tests.support.processes import wait_until
from tests.support.windows import MODALITIES
from tests.support.worker_bench import Source

PARTITIONS = 2
NEVER = threading.Event()


class Rig:
    """Openings of a processor that has lost its disk; of partition 0 there is more to read."""

    def __init__(self, broker: EmbeddedBroker, prefix: str, folder: Path) -> None:
        connection = broker.connection
        topics = Topics(KafkaSettings(topic_prefix=prefix, partitions=PARTITIONS))
        ensure(connection, topics.specs(MODALITIES, ()))
        self.source = Source(connection, topics, folder / "source")
        self.source.send(30, users=6)
        for _ in range(3):
            for user in self.source.buffers[0].users():
                self.source.send_to(user)
        self.ends = [buffer.log_offset for buffer in self.source.buffers]
        assert self.ends[0] > self.ends[1] > 0
        self.config = PartitionConfig(connection, topics, worker_bench.buffers(connection, folder / "state"))
        self.near: list[int] = []

    def wait(self, *numbers: int) -> None:
        wait_until(lambda: self.near == list(numbers), f"{numbers} are near")


@pytest.fixture
def rig(shared_embedded_broker: EmbeddedBroker, topic_prefix: str, tmp_path: Path) -> Rig:
    return Rig(shared_embedded_broker, topic_prefix, tmp_path)


def holding(monkeypatch: pytest.MonkeyPatch, number: int) -> tuple[threading.Event, threading.Event]:
    """(set when the restore of this one begins, it goes on when this is set)."""
    begun, go_on = threading.Event(), threading.Event()
    real = openings_module.restore

    def held(connection: Any, topic: str, partition: int, buffer: TokenBuffer, **options: Any) -> Any:
        if partition == number:
            begun.set()
            while not go_on.wait(0.01) and not options["stop"].is_set():
                pass
        return real(connection, topic, partition, buffer, **options)

    monkeypatch.setattr(openings_module, "restore", held)
    return begun, go_on


def test_those_with_the_least_to_read_come_first(rig: Rig) -> None:
    openings = Openings(rig.config)
    openings.begin([0, 1], NEVER, rig.near.append)
    rig.wait(1, 0)
    for number in range(PARTITIONS):
        buffer = openings.take(number)
        assert buffer.log_offset == rig.ends[number]
        openings.leave(number, buffer)
    again = openings.take(0)  # neither begun nor locked
    again.close()
    openings.close()


def test_who_takes_one_that_is_under_way_waits_for_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = holding(monkeypatch, 1)
    openings = Openings(rig.config)
    openings.begin([0, 1], NEVER, rig.near.append)
    assert begun.wait(30)
    threading.Timer(0.1, go_on.set).start()
    buffer = openings.take(1)
    assert go_on.is_set()
    assert buffer.log_offset == rig.ends[1]
    buffer.close()
    rig.wait(1, 0)
    openings.close()
    for number in range(PARTITIONS):
        rig.config.buffers.open(number).close()


def test_what_is_given_up_can_be_begun_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = holding(monkeypatch, 0)
    openings = Openings(rig.config)
    for _ in range(2):
        revoked = threading.Event()
        rig.near.clear()
        openings.begin([0, 1], revoked, rig.near.append)
        rig.wait(1)
        assert begun.wait(30)
        revoked.set()
        openings.give_up([0, 1])
        for number in range(PARTITIONS):
            rig.config.buffers.open(number).close()
        begun.clear()
    go_on.set()
    rig.near.clear()
    openings.begin([0, 1], NEVER, rig.near.append)
    rig.wait(1, 0)
    openings.close()
    for number in range(PARTITIONS):
        rig.config.buffers.open(number).close()


def test_a_failure_is_told_to_all_who_wait(rig: Rig) -> None:
    failures: list[BaseException] = []
    locked = rig.config.buffers.open(1)
    openings = Openings(rig.config, on_failure=failures.append)
    openings.begin([0, 1], NEVER, rig.near.append)
    wait_until(lambda: bool(failures), "it failed")
    assert isinstance(failures[0], StateError)
    assert rig.near == []
    locked.close()
    openings.close()
    for number in range(PARTITIONS):
        rig.config.buffers.open(number).close()


def test_buffers_come_from_the_standby_and_go_back_to_it(rig: Rig) -> None:
    failures: list[Exception] = []
    followed: list[int] = []
    real: Callable[[int], TokenBuffer] = rig.config.buffers.open

    def opened(partition: int) -> TokenBuffer:
        followed.append(partition)
        return real(partition)

    standby = Standby(
        rig.config.connection, rig.config.topics.tokens, range(PARTITIONS), opened, on_failure=failures.append
    )
    wait_until(lambda: sorted(followed) == [0, 1], "both are followed")
    openings = Openings(rig.config, standby)
    openings.begin([0, 1], NEVER, rig.near.append)
    wait_until(lambda: sorted(rig.near) == [0, 1], "both are near")
    openings.leave(0, openings.take(0))
    openings.give_up([1])
    for number in range(PARTITIONS):
        with pytest.raises(StateError):
            rig.config.buffers.open(number)  # the standby has it
    openings.close()
    standby.close()
    assert not failures
    assert sorted(followed) == [0, 1], "none was opened again"
