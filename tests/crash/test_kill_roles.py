"""kill -9 of each role, and of the broker, in mid-replay on real Kafka: afterwards nothing is lost, nothing doubled.

One system for all: each test goes on from the state the last one left.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deploy.run.spawn import Spawn
from encoder.forward.user_encoder import UserEncoder
from encoder.model.text_encoder import TextEncoder
from tests.crash.system import TIMEOUT, System

SECONDS = 6.0

pytestmark = [pytest.mark.kafka, pytest.mark.crash, pytest.mark.timeout(TIMEOUT)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, spawn: Spawn) -> Iterator[System]:
    with System(tmp_path_factory.mktemp("system"), spawn) as s:
        yield s


@pytest.fixture
def s(running: System) -> System:
    assert not running.failed, "the system is as the failed test left it"
    return running


def test_undisturbed(s: System, texts: TextEncoder, users: UserEncoder) -> None:
    with s.judged(texts, users):
        s.send(s.stream(3))


@pytest.mark.parametrize("role", ["ingest", "processor", "worker", "serve"])
def test_killed_role(role: str, s: System, texts: TextEncoder, users: UserEncoder) -> None:
    messages, before = s.stream(1), len(s.sent)
    with s.judged(texts, users), s.sending(messages, seconds=SECONDS):
        for part in (3, 1.5):
            s.wait_sent(before + int(len(messages) / part))
            s.kill(role)


def test_killed_broker(s: System, texts: TextEncoder, users: UserEncoder) -> None:
    messages, before = s.stream(2), len(s.sent)
    process = s.launcher.broker.process
    assert process is not None
    with s.judged(texts, users), s.sending(messages, seconds=SECONDS):
        s.wait_sent(before + len(messages) // 2)
        process.kill()
        process.restart()
