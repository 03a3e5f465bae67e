"""Apache Kafka started by us: data survives stop, kill and a dead launcher."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition

from deploy import brokers
from deploy.brokers import host, kafka_jars, local
from deploy.brokers.local import LocalKafka
from deploy.kafka import topics
from deploy.settings.config import Settings
from store.base.errors import BrokerError
from store.base.file_lock import lock
from store.base.stop import Stopped, obey
from stream.kafka.client import Connection
from stream.kafka.pacing import SafeProducer
from stream.topics import TopicSpec

LAUNCHER = """
import os, signal, sys, threading
from pathlib import Path
from deploy.brokers.local import LocalKafka
def launch():
    LocalKafka(Path(sys.argv[1]))
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "main":
    launch()
thread = threading.Thread(target=launch)
thread.start()
thread.join()
"""


def launch_and_die(data_dir: Path, thread: str) -> int:
    """A launcher starts Kafka from its `main` or another thread and gets kill -9; returns Kafka's pid."""
    launcher = subprocess.run([sys.executable, "-c", LAUNCHER, str(data_dir), thread], check=False)
    assert launcher.returncode == -signal.SIGKILL
    return int(json.loads((data_dir / "kafka" / "settings.json").read_text())["pid"])


def end_of(connection: Connection, topic: str) -> int:
    """End of partition 0."""
    return int(connection.consumer("x").get_watermark_offsets(TopicPartition(topic, 0), timeout=10)[1])


def write(connection: Connection, topic: str, count: int) -> None:
    """Write and wait for the acknowledgements."""
    producer = SafeProducer(connection)
    for _ in range(count):
        producer.produce(topic, b"x", partition=0)
    producer.flush(20)


@pytest.mark.kafka
def test_data_and_identity_survive(kafka_broker: LocalKafka, tmp_path: Path) -> None:
    """Stop, kill -9, a start elsewhere on the same folder, taken ports, and a launcher that was killed."""
    settings = Settings.model_validate({"store": {"data_dir": tmp_path}, "kafka": {"bootstrap_servers": "local"}})
    with brokers.start(settings) as broker:
        kafka = broker.process
        assert isinstance(kafka, LocalKafka)
        first = broker.connection
        assert first.identity.startswith("kafka:")
        assert not first.embedded
        assert brokers.connect(settings) == first
        topics.ensure(first, [TopicSpec("t", 1)])
        write(first, "t", 10)
        kafka.restart()
        assert broker.connection == first
        assert end_of(first, "t") == 10
        write(first, "t", 10)
        kafka.kill()
        assert not broker.alive()
        with pytest.raises(BrokerError):
            brokers.connect(settings, timeout_s=0)
        kafka.restart()
        assert end_of(first, "t") == 20
    assert not (tmp_path / "run" / "broker.json").exists()

    port = int(first.bootstrap.rpartition(":")[2])
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with brokers.start(settings) as broker:
            assert broker.connection.bootstrap != first.bootstrap
            assert broker.connection.identity == first.identity
            assert end_of(broker.connection, "t") == 20

    orphan = launch_and_die(tmp_path, "other")
    os.kill(orphan, 0)
    with brokers.start(settings) as broker:
        assert end_of(broker.connection, "t") == 20
        assert broker.connection.identity == first.identity
    with pytest.raises(ProcessLookupError):
        os.kill(orphan, 0)


@pytest.mark.kafka
def test_a_folder_of_any_name(kafka_broker: LocalKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In `größe` the data went to `grÃ¶Ãe` beside it, and no second start came up; a comma made two folders."""
    monkeypatch.setenv("LC_ALL", "C")
    home = tmp_path / "größe, 名 = #1 \\n:x!"
    broker = LocalKafka(home)
    try:
        topics.ensure(broker.connection, [TopicSpec("t", 1)])
        write(broker.connection, "t", 10)
        broker.restart()
        assert end_of(broker.connection, "t") == 10
    finally:
        broker.stop()
    assert [path.name for path in tmp_path.iterdir()] == [home.name]
    assert (home / "kafka" / "data" / "meta.properties").is_file()


@pytest.mark.kafka
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's prctl")
def test_it_ends_with_its_launcher(kafka_broker: LocalKafka, tmp_path: Path) -> None:
    """kill -9 of the launcher shuts Kafka down in order: the lock on its data becomes free."""
    launch_and_die(tmp_path, "main")
    held = lock(tmp_path / "kafka" / "lock", wait_seconds=20)
    assert held is not None
    held.close()


@pytest.mark.kafka
def test_a_broker_that_does_not_come_up_shows_its_log(kafka_broker: LocalKafka, tmp_path: Path) -> None:
    """The reason is in the error, not only in a file."""
    broker = LocalKafka(tmp_path)
    broker.stop()
    properties = tmp_path / "kafka" / "data" / "meta.properties"
    properties.write_text("node.id=7\nversion=1\n")
    with pytest.raises(BrokerError, match=r"kafka\.log") as caught:
        broker.restart()
    assert caught.value.code == "broker_failed"
    assert "meta.properties" in caught.value.detail
    assert not broker.alive()


@pytest.mark.kafka
def test_jars_are_fetched_once_and_mended(kafka_broker: LocalKafka) -> None:
    """A cache that lost or changed a file is not complete."""
    lib = kafka_jars.ensure_jars()
    assert kafka_jars._complete(lib.parent)
    jar = next(lib.glob("slf4j-simple*.jar"))
    aside = jar.with_suffix(".aside")
    jar.rename(aside)
    try:
        assert not kafka_jars._complete(lib.parent)
        jar.write_bytes(b"half")
        assert not kafka_jars._complete(lib.parent)
    finally:
        aside.replace(jar)
    assert kafka_jars._complete(lib.parent)


def test_missing_java_and_maven_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is written."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ANCHORSTREAM_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BrokerError, match="java") as caught:
        LocalKafka(tmp_path / "data")
    assert caught.value.code == "java_missing"
    assert "install Java 17" in caught.value.action
    with pytest.raises(BrokerError, match="mvn") as caught:
        kafka_jars.ensure_jars()
    assert caught.value.code == "maven_missing"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('openjdk version "17.0.15" 2025-04-15', True),
        ('openjdk version "21-ea" 2023-09-19', True),
        ('java version "1.8.0_381"', False),
        ('openjdk version "11.0.2" 2019-01-15', False),
        ("no idea", False),
    ],
)
def test_java_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, fits: bool) -> None:
    """As all vendors write it, to standard error."""
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\necho '{text}' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    if fits:
        assert kafka_jars.java() == str(java)
    else:
        with pytest.raises(BrokerError, match="needs 17"):
            kafka_jars.java()


def test_ports() -> None:
    """The wanted one if it is free, else another; never the same twice."""
    a, b = host.free_ports(None, None)
    assert a != b
    assert host.free_ports(a, b) == [a, b]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", a))
        taken.listen()
        again = host.free_ports(a, b)
        assert again[0] != a
        assert again[1] == b


def test_cluster_ids_are_kafkas() -> None:
    """22 characters; a leading dash would be read as an option."""
    for _ in range(500):
        name = local.new_cluster_id()
        assert len(name) == 22
        assert not name.startswith("-")


@pytest.mark.kafka
def test_the_identity_is_that_of_the_data(kafka_broker: LocalKafka, tmp_path: Path) -> None:
    """Without settings.json it looked for a cluster of another id, without an end."""
    broker = LocalKafka(tmp_path)
    identity = broker.connection.identity
    broker.stop()
    (tmp_path / "kafka" / "settings.json").unlink()
    again = LocalKafka(tmp_path)
    try:
        assert again.connection.identity == identity
    finally:
        again.stop()


@pytest.mark.kafka
def test_who_answers_at_its_port_must_be_it(
    kafka_broker: LocalKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asked on, without an end."""
    broker = LocalKafka(tmp_path)
    broker.stop()
    monkeypatch.setattr(local, "START_SECONDS", 10.0)
    monkeypatch.setattr(LocalKafka, "_formatted", lambda _: "another")
    with pytest.raises(BrokerError, match=r"is answered by cluster .*, not by another within 10 s"):
        LocalKafka(tmp_path)


@pytest.mark.kafka
def test_a_start_that_nobody_waits_for_any_more_ends(kafka_broker: LocalKafka, tmp_path: Path) -> None:
    """Ctrl-C while a broker that had died did not come up again was not heard for a minute."""
    stop = threading.Event()
    broker = LocalKafka(tmp_path, waiting=lambda: obey(stop))
    stop.set()
    with pytest.raises(Stopped):
        broker.restart()
    assert not broker.alive()
    stop.clear()
    broker.restart()
    assert broker.alive()
    broker.stop()
