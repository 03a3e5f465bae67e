"""kill -9 of each role, and of the broker, in mid-replay on real Kafka: afterwards nothing is lost, nothing doubled."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from encoder.forward.user_encoder import UserEncoder
from encoder.model.text_encoder import TextEncoder
from tests.crash.system import System, system
from tests.support.behaviour import behaviour

pytestmark = [pytest.mark.kafka, pytest.mark.crash, pytest.mark.timeout(420)]


def sending(s: System, seed: int, seconds: float = 8.0) -> threading.Thread:
    messages = behaviour(seed, users=16, events=600).messages
    thread = threading.Thread(target=s.send, args=(messages,), kwargs={"per_second": len(messages) / seconds})
    thread.start()
    return thread


@pytest.mark.parametrize("role", ["ingest", "processor", "worker", "serve"])
def test_killed_role(role: str, tmp_path: Path, texts: TextEncoder, users: UserEncoder) -> None:
    with system(tmp_path) as s:
        sender = sending(s, seed=1)
        for pause in (3.0, 2.5):
            time.sleep(pause)
            s.launcher.kill(role)
        sender.join()
        s.wait_drained()
        s.check(texts, users)


def test_killed_broker(tmp_path: Path, texts: TextEncoder, users: UserEncoder) -> None:
    with system(tmp_path) as s:
        sender = sending(s, seed=2)
        time.sleep(4)
        process = s.launcher.broker.process
        assert process is not None
        process.kill()
        process.restart()
        sender.join()
        s.wait_drained()
        s.check(texts, users)


def test_undisturbed(tmp_path: Path, texts: TextEncoder, users: UserEncoder) -> None:
    with system(tmp_path) as s:
        s.send(behaviour(3, users=16, events=600).messages)
        s.wait_drained()
        s.check(texts, users)
