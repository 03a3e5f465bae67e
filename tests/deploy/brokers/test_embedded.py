"""The embedded broker as a process: ready file, topics added later, and no orphan."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy import brokers
from deploy.brokers.process import EmbeddedBroker
from deploy.kafka import topics
from deploy.settings.config import Settings
from store.base.errors import BrokerError, TopicError
from stream.topics import Topics, TopicSpec

PARENT = """
import sys, time
from pathlib import Path
from deploy.brokers.process import EmbeddedBroker
EmbeddedBroker(Path(sys.argv[1]), {"t": 1})
time.sleep(60)
"""


def wait_until(true: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Whether a process that is not our child runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    # in a container nobody may be there to reap it
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    """kill -9 of the launcher leaves nothing behind."""
    ready = tmp_path / "run" / "broker.json"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(ready)])
    try:
        wait_until(ready.exists, 30)
        pid = json.loads(ready.read_text())["pid"]
        assert runs(pid)
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not runs(pid))
    assert not ready.exists()


def test_ctrl_c_is_left_to_the_launcher(start_embedded: Callable[[dict[str, int]], EmbeddedBroker]) -> None:
    """A terminal's Ctrl-C reaches the broker too, which must outlive the roles that drain into it."""
    broker = start_embedded({"t": 1})
    os.kill(broker.pid, signal.SIGINT)
    for number in range(2):  # whatever it does about the signal, it does before it answers
        assert topics.ensure(broker.connection, [TopicSpec(f"after{number}", 1)])
    assert broker.alive()
    assert "t" in broker.connection.metadata().topics
    broker.stop()
    assert not broker.alive()


def test_topics_are_added_while_it_runs(shared_embedded_broker: EmbeddedBroker, topic_prefix: str) -> None:
    """A scenario registered at run time needs its topic; asking twice changes nothing."""
    connection = shared_embedded_broker.connection
    spec = TopicSpec(f"{topic_prefix}.late", 7, {"cleanup.policy": "compact"})
    assert topics.ensure(connection, [spec]) == [spec.name]
    assert topics.ensure(connection, [spec]) == []
    assert len(connection.metadata().topics[spec.name].partitions) == 7
    with pytest.raises(TopicError, match=r"has 7 partitions, kafka\.partitions is 8"):
        topics.ensure(connection, [TopicSpec(spec.name, 8)])
    assert topics.ensure(connection, [TopicSpec(spec.name, 8, ours=False)]) == []


def test_a_refused_topic_is_an_error(shared_embedded_broker: EmbeddedBroker) -> None:
    """Not a topic that is silently missing."""
    with pytest.raises(BrokerError, match="bad"):
        topics.ensure(shared_embedded_broker.connection, [TopicSpec("bad", 0)])


def test_start_and_connect(tmp_path: Path) -> None:
    """`start` makes all topics of the config; other processes find the broker through the data directory."""
    settings = Settings.model_validate({"store": {"data_dir": tmp_path}, "kafka": {"partitions": 2}})
    with pytest.raises(BrokerError, match="there is none"):
        brokers.connect(settings, timeout_s=0)
    with brokers.start(settings) as broker:
        assert broker.connection.identity.startswith("embedded:")
        assert brokers.connect(settings) == broker.connection
        there = broker.connection.metadata().topics
        assert {spec.name for spec in brokers.specs(settings)} <= there.keys()
        assert len(there[Topics(settings.kafka).tokens].partitions) == 2
        assert topics.ensure(broker.connection, brokers.specs(settings)) == []
        first = broker.connection.identity
        assert broker.process is not None
        with pytest.raises(BrokerError, match="cannot be restarted"):
            broker.process.restart()
        broker.process.kill()
        assert not broker.alive()
        with pytest.raises(BrokerError, match="gone"):
            brokers.connect(settings, timeout_s=0)
    with brokers.start(settings) as broker:
        assert broker.connection.identity != first


def test_a_broker_that_is_not_there_says_what_to_check() -> None:
    """Within the time given."""
    settings = Settings.model_validate({"kafka": {"bootstrap_servers": "127.0.0.1:1"}})
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:1") as caught:
        brokers.connect(settings, timeout_s=0.5)
    assert "bootstrap_servers" in caught.value.action
