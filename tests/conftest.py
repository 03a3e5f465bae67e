"""Brokers for tests. `embedded_broker` is fresh for each test, `kafka_broker` one real Kafka for the whole run."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings

from deploy.brokers.local import LocalKafka
from deploy.brokers.process import EmbeddedBroker
from deploy.run import launcher
from deploy.run.spawn import Spawn
from store.base import pulse
from store.buffer.resources import BufferResources
from store.buffer.token_buffer import TokenBuffer
from tests.models.events import Open, open_buffer, resources
from tests.support import fork_server
from tests.support.offsets import committed
from tests.support.secured_kafka import SecuredKafka

# how long an example takes is the machine's affair
settings.register_profile("any_machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any_machine")
NO_KAFKA = "REAL KAFKA NOT TESTED: this test needs Java 17 (`java`) and Maven (`mvn`) on PATH"


def need_kafka() -> None:
    """Skip the test where real Kafka cannot run; in CI that is a failure."""
    if not (shutil.which("java") and shutil.which("mvn")):
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(NO_KAFKA + "; CI must have them")
        pytest.skip(NO_KAFKA)


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """A test that configures logs must not change what the next one captures."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    yield
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    logging.captureWarnings(False)
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def _no_loop_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier test did in this process is no sign of life."""
    monkeypatch.setattr(pulse, "_last", None)


@pytest.fixture
def start_embedded(tmp_path: Path) -> Iterator[Callable[[dict[str, int]], EmbeddedBroker]]:
    """Factory: topics (name → partitions) → a running embedded broker."""
    started: list[EmbeddedBroker] = []

    def start(topics: dict[str, int]) -> EmbeddedBroker:
        broker = EmbeddedBroker(tmp_path / f"broker-{len(started)}.json", topics)
        started.append(broker)
        return broker

    yield start
    for broker in started:
        broker.stop()


@pytest.fixture
def embedded_broker(start_embedded: Callable[[dict[str, int]], EmbeddedBroker]) -> EmbeddedBroker:
    """An embedded broker with topics `events` (4 partitions), `tokens` (4) and `one` (1)."""
    return start_embedded({"events": 4, "tokens": 4, "one": 1})


@pytest.fixture(scope="session")
def shared_embedded_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """One embedded broker for the whole run: make topics by `topics.ensure`, under a `topic_prefix`."""
    broker = EmbeddedBroker(tmp_path_factory.mktemp("broker") / "broker.json", {})
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """Apache Kafka 4.1.1 for the whole run: use `topic_prefix` to keep out of other tests' way.

    Skips the test without Java and Maven; where the environment says CI=true that is a failure.
    """
    need_kafka()
    broker = LocalKafka(tmp_path_factory.mktemp("kafka"))
    # its first group waits seconds for a coordinator: not in some test's time
    committed(broker.connection, "coordinator", "none", 1)
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def secured_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """One Kafka that asks who is there, for the whole run."""
    need_kafka()
    broker = SecuredKafka(tmp_path_factory.mktemp("secured-kafka"))
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def spawn() -> Spawn:
    """Starts a role, as a fork of a process that has imported all that roles import (tests/support/fork_server.py)."""
    fork_server.start()
    return fork_server.spawn


@pytest.fixture
def forked_roles(spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every launcher in this process starts its roles so, also one that a command or a benchmark makes."""
    monkeypatch.setattr(launcher, "execute", spawn)


@pytest.fixture
def topic_prefix() -> str:
    """A prefix for topics and groups that no other test uses."""
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def buffer_resources() -> BufferResources:
    """Small ones, for the whole run."""
    return resources()


@pytest.fixture
def opened(tmp_path: Path, buffer_resources: BufferResources) -> Iterator[Open]:
    """Token buffers by name."""
    live: list[TokenBuffer] = []

    def make(name: str, **changes: Any) -> TokenBuffer:
        live.append(open_buffer(tmp_path / name, buffer_resources, **changes))
        return live[-1]

    yield make
    for buffer in live:
        buffer.close()
