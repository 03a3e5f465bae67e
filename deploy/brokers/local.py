"""A real Apache Kafka (KRaft, one node) on this machine, with its data under the data directory."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, TextIO

import confluent_kafka

from deploy.brokers.host import ends_with_us, free_ports
from deploy.brokers.kafka_jars import ensure_jars, java
from store.base import logs
from store.base.errors import BrokerError
from store.base.file_lock import lock
from store.base.files import read_json, sweep, write_atomic, write_json
from stream.broker_properties import Property
from stream.kafka.client import Connection

START_SECONDS = 60.0
STOP_SECONDS = 20.0
HEAP = ("-Xms256m", "-Xmx512m")
POLL_SECONDS = 0.05
LOG_TAIL_LINES = 15
LOG_BYTES = 10 * 1024 * 1024
"""At a start the log of the last one is kept as kafka.log.1 once it is larger."""
log = logs.get(__name__)


class LocalKafka:
    """One Kafka broker and controller; the JVM is our direct child, so signals reach it.

    Files: `<data_dir>/kafka/` (settings.json with cluster id and ports, server.properties, data/),
    `<data_dir>/logs/kafka.log`. A start on the same data directory keeps cluster id, data and, if they are free, ports.

    Args:
        ready_file: written once the broker answers, removed at `stop`.
        properties: librdkafka's, for the connection.
        waiting: called while a start waits for it to answer; what it raises ends the start, and the broker.

    Raises:
        BrokerError: Java or Maven is missing, or the broker did not come up; ends with the last lines of its log.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        ready_file: Path | None = None,
        properties: Mapping[str, Property] | None = None,
        waiting: Callable[[], object] = lambda: None,
    ) -> None:
        self._waiting = waiting
        self._home = data_dir.absolute() / "kafka"
        self._log_file = data_dir.absolute() / "logs" / "kafka.log"
        self._ready_file = ready_file
        self._properties = dict(properties or {})
        self._java = java()
        self._classpath = f"{ensure_jars().absolute()}/*"
        self._home.mkdir(parents=True, exist_ok=True)
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    @property
    def connection(self) -> Connection:
        """How to reach it; the ports may change at `restart` if others have taken them."""
        return Connection(f"127.0.0.1:{self._port}", self._properties, identity=f"kafka:{self._cluster_id}")

    @property
    def pid(self) -> int:
        """Of the JVM."""
        if self._process is None:
            raise BrokerError("the local Kafka is stopped", action="call restart()")
        return self._process.pid

    def alive(self) -> bool:
        """Whether the JVM runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that takes longer than STOP_SECONDS. No effect if it has ended."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same data.

        Raises:
            BrokerError: it did not come up.
        """
        self.stop()
        self._start()

    def _start(self) -> None:
        saved = read_json(self._home / "settings.json") or {}
        config = self._home / "server.properties"
        with _lock(self._home, saved.get("pid"), config) as held:
            sweep(self._home)
            self._launch(saved, config, held.fileno())
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.kill()
            raise
        if self._ready_file is not None:
            state = {"kind": "local", "bootstrap": self.connection.bootstrap, "identity": self.connection.identity}
            write_json(self._ready_file, {**state, "pid": self.pid})
        log.info(logs.BROKER_STARTED, kind="local", bootstrap=self.connection.bootstrap, pid=self.pid)

    def _launch(self, saved: Mapping[str, Any], config: Path, lock_descriptor: int) -> None:
        self._cluster_id = self._formatted() or str(saved.get("cluster_id") or new_cluster_id())
        self._port, self._controller_port = free_ports(saved.get("port"), saved.get("controller_port"))
        self._save(pid=None)
        write_atomic(config, "".join(f"{key}={value}\n" for key, value in self._server_properties().items()))
        if self._log_file.exists() and self._log_file.stat().st_size > LOG_BYTES:
            self._log_file.replace(self._log_file.with_name("kafka.log.1"))
        with self._log_file.open("ab") as output:
            if self._formatted() is None:
                self._format(config, output)
            command = [*self._jvm(*HEAP, "-XX:+ExitOnOutOfMemoryError"), "kafka.Kafka", str(config)]
            self._process = subprocess.Popen(
                [*ends_with_us(), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C is for the launcher, which stops the broker last
                start_new_session=True,
                pass_fds=(lock_descriptor,),
                cwd=self._home,
                env=_environment(),
            )
        self._save(pid=self._process.pid)

    def _formatted(self) -> str | None:
        """Cluster id that the data stands under, whatever became of settings.json; None = no data yet."""
        try:
            lines = (self._home / "data" / "meta.properties").read_text().splitlines()
        except FileNotFoundError:
            return None
        return next((line.partition("=")[2] for line in lines if line.startswith("cluster.id=")), None)

    def _save(self, *, pid: int | None) -> None:
        ports = {"port": self._port, "controller_port": self._controller_port}
        write_json(self._home / "settings.json", {"cluster_id": self._cluster_id, **ports, "pid": pid})

    def _jvm(self, *options: str) -> list[str]:
        return [
            self._java,
            *options,
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-cp",
            self._classpath,
        ]

    def _format(self, config: Path, output: IO[bytes]) -> None:
        command = [*self._jvm(), "kafka.tools.StorageTool", "format", "-t", self._cluster_id, "-c", str(config)]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=False,
            cwd=self._home,
            env=_environment(),
        )
        if done.returncode:
            raise self._failed("Kafka could not format its data folder")

    def _server_properties(self) -> dict[str, str | int]:
        listener, controller = f"127.0.0.1:{self._port}", f"127.0.0.1:{self._controller_port}"
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{listener},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{listener}",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            # below the working directory: a properties file is Latin-1, and a comma here parts two folders
            "log.dirs": "data",
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": 4,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            # after a kill the controller refuses the broker until its last session has run out; default 9 s
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
            "log.cleaner.backoff.ms": 1000,
            # one machine, a few thousand segments at most
            "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
        }

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        admin, met = None, "Kafka did not answer"
        while True:
            self._waiting()
            if self._process.poll() is not None:
                raise self._failed(f"Kafka ended with code {self._process.returncode} at start")
            try:
                # a client that meets a closed port logs each try and backs off
                socket.create_connection(("127.0.0.1", self._port), timeout=1.0).close()
                admin = admin or self.connection.admin()
                if (found := admin.list_topics(timeout=1.0).cluster_id) == self._cluster_id:
                    return
                met = f"port {self._port} is answered by cluster {found}, not by {self._cluster_id}"
            except (OSError, confluent_kafka.KafkaException) as exc:
                met = f"Kafka did not answer ({exc})"
            if time.monotonic() > deadline:
                raise self._failed(f"{met} within {START_SECONDS:g} s")
            time.sleep(POLL_SECONDS)

    def _failed(self, what: str) -> BrokerError:
        with self._log_file.open("rb") as handle:
            handle.seek(max(0, self._log_file.stat().st_size - 32_768))
            tail = handle.read().decode("utf-8", "replace").splitlines()[-LOG_TAIL_LINES:]
        return BrokerError(
            "\n".join([f"{what}; the last lines of {self._log_file}:", *(f"  {line}" for line in tail)]),
            action=f"see the lines above; {self._home} holds its data and settings",
            code="broker_failed",
        )

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._ready_file is not None:
            self._ready_file.unlink(missing_ok=True)
        log.info(logs.BROKER_STOPPED, kind="local")


def _lock(home: Path, pid: int | None, config: Path) -> TextIO:
    """The data's lock, which the JVM inherits and holds for as long as it lives: two on one folder corrupt it.

    A Kafka that a killed launcher left behind is ended: our caller owns the data directory, so no live launcher has it.

    Raises:
        BrokerError: the folder stays locked.
    """
    path = home / "lock"
    if (held := lock(path)) is not None:
        return held
    if pid is not None and _runs(pid, config):
        log.warning(logs.BROKER_ORPHANED, kind="local", pid=pid, detail="left by a launcher that was killed; ending it")
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            if (held := lock(path, wait_seconds=STOP_SECONDS)) is not None:
                return held
    raise BrokerError(
        f"another Kafka runs on {home} (pid {pid or 'unknown'})",
        action="end it, or use another store.data_dir",
        code="broker_failed",
    )


def _environment() -> dict[str, str]:
    """Ours, but for the locale: Java reads names of files by it, and in C it finds none beyond ASCII."""
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def _runs(pid: int, config: Path) -> bool:
    """Whether `pid` is a Kafka on our data; the pid alone may be another program's by now."""
    listed = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return str(config) in listed.stdout


def new_cluster_id() -> str:
    """A random cluster id as Kafka writes them: 22 characters of URL-safe base64, not starting with a dash."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()).startswith("-"):
        pass
    return text
