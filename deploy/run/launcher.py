"""The whole system on one machine: lock, broker, topics, and the roles as supervised processes.

Start, in this order: 1. the data directory's lock; 2. the broker, if it is ours; 3. the state is this broker's;
4. topics; 5. the settings for the roles; 6. the roles. Stop, in the reverse of the data's way, so that what
is under way arrives: ingest, processor, worker, serve, then the broker, then the lock.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from deploy import brokers
from deploy.brokers.state import claim_state
from deploy.brokers.state_prefix import check_prefix
from deploy.kafka import topics
from deploy.lock import DataDirLock
from deploy.run.child_settings import write_child_settings
from deploy.run.endpoint import clear_targets
from deploy.run.ready import ready_path
from deploy.run.spawn import Spawn, execute
from deploy.run.state_watch import removed
from deploy.run.supervision import RestartPolicy
from deploy.run.supervisor import Child, ChildEvent, EventKind, Supervisor
from deploy.settings.config import Settings
from deploy.settings.variables import ENV_PREFIX
from store.base.errors import ConfigError, RoleError
from store.base.exposure import check_exposure
from store.base.files import read_json, sweep
from stream.kafka.client import Connection

ROLES = ("ingest", "processor", "worker", "serve")
DRAIN_ORDER = (*ROLES, "monitor")
READY_SECONDS = 180.0
"""Importing torch and loading weights from a cold disk, on a laptop with four processes doing so at once."""
DRAIN_SECONDS = 10.0
DRAIN_TOTAL_SECONDS = 20.0
_WATCH_SECONDS = 0.2


class Launcher:
    """Starts everything and keeps it running; a context manager that stops it.

    Args:
        settings: in force for every role; `store.data_dir` is what is locked.
        roles: names, or name → number of processes. Instance n of a role is called `role-n`.
        env: added to the roles' environment.
        command: what is put before `run ROLE --config … --instance …`; the module of the CLI unless a test says else.
        on_event: called, on another thread, for everything that happens to a role or the broker; default: log it.
        spawn: starts a role's process; default: an interpreter of its own.
        keep: an embedded broker keeps what it is given (`deploy.brokers.start`).
        waiting: called while a broker of ours comes up; what it raises ends `start`, or `check`.

    Raises:
        ConfigError: these roles cannot run with these settings.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        roles: Sequence[str] | Mapping[str, int] = ROLES,
        env: Mapping[str, str] | None = None,
        command: Sequence[str] = (sys.executable, "-m", "deploy.cli"),
        on_event: Callable[[ChildEvent], None] | None = None,
        policy: RestartPolicy | None = None,
        spawn: Spawn | None = None,
        keep: bool = False,
        waiting: Callable[[], object] = lambda: None,
    ) -> None:
        self.data_dir = settings.store.data_dir.absolute()
        self.settings = settings.model_copy(
            update={"store": settings.store.model_copy(update={"data_dir": self.data_dir})}
        )
        self._roles = dict(roles) if isinstance(roles, Mapping) else dict.fromkeys(roles, 1)
        self._env = dict(env or {})
        self._keep = keep
        self._waiting = waiting
        self._command = tuple(command)
        self._supervisor = Supervisor([], policy=policy, on_event=on_event, spawn=spawn or execute)
        self._lock: DataDirLock | None = None
        self._broker: brokers.RunningBroker | None = None
        self._settings_env: dict[str, str | None] = {}
        if "serve" in self._roles:
            check_exposure(settings.serve)
        if settings.kafka.bootstrap_servers == "embedded" and self._roles.get("processor", 0) > 1:
            raise ConfigError(
                f"{self._roles['processor']} processors on the embedded broker: its group protocol loses one of them",
                action='use one, or set kafka.bootstrap_servers = "local"',
            )

    # ---- life cycle -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Steps 1 to 6. Returns once the role processes are started; `wait_ready` waits until they work.

        Raises:
            DataDirLocked, StateError, BrokerError, TopicError: nothing is left running.
        """
        self._lock = DataDirLock.acquire(self.data_dir)
        try:
            sweep(self.data_dir / "run")
            clear_targets(self.data_dir)
            self._broker = brokers.start(self.settings, keep=self._keep, waiting=self._waiting)
            claim_state(self.data_dir, self.connection)
            check_prefix(self.data_dir, self.settings.kafka.topic_prefix)
            kafka = self.settings.kafka
            topics.ensure(self.connection, brokers.specs(self.settings), replication_factor=kafka.replication_factor)
            self._settings_env = write_child_settings(self.settings, self._settings_path)
            self._serve_file.unlink(missing_ok=True)
            for role, count in self._roles.items():
                for instance in range(count):
                    self._supervisor.add(self._child(role, instance))
            self._supervisor.start()
        except BaseException:
            self.stop()
            raise

    def wait_ready(self, timeout: float = READY_SECONDS) -> None:
        """Block until every role works.

        Raises:
            RoleError: a role keeps dying or is not ready in time; the message ends with its last log lines.
            BrokerError: the broker died.
        """
        deadline = time.monotonic() + timeout
        while True:
            self.check()
            left = deadline - time.monotonic()
            try:
                self._supervisor.wait_ready(max(0.0, min(_WATCH_SECONDS, left)))
            except RoleError as exc:
                if exc.code != "role_not_ready" or left <= _WATCH_SECONDS:
                    raise
            else:
                return

    def check(self) -> None:
        """Look after what the supervisor does not: call it a few times a second, as `supervise` does.

        Raises:
            RoleError: a role was given up.
            StateError: the data directory was removed or replaced.
            BrokerError: the embedded broker died, or the local one did not come up again.
        """
        self._supervisor.check()
        if self._lock is not None and not self._lock.in_place():
            raise removed(self._lock.path)
        broker = self.broker
        if broker.alive() or broker.process is None:
            return
        before = broker.connection.bootstrap
        broker.process.restart()
        self._supervisor.tell(ChildEvent(EventKind.RESTARTED, "broker", broker.process.pid, "it had died"))
        if broker.connection.bootstrap != before:
            # its ports were taken meanwhile: the roles find the new ones when they start
            for name in self.pids():
                self._supervisor.kill(name, signal.SIGTERM)

    def supervise(self, stop: threading.Event) -> None:
        """Block until `stop` is set. Raises as `check`."""
        while not stop.wait(_WATCH_SECONDS):
            self.check()

    def stop(self) -> None:
        """Drain the roles in order, stop the broker, free the data directory. Idempotent.

        An exception in between (a second Ctrl-C) kills everything at once.
        """
        try:
            self._supervisor.stop(DRAIN_ORDER, per_child_seconds=DRAIN_SECONDS, total_seconds=DRAIN_TOTAL_SECONDS)
            if self._broker is not None:
                self._broker.stop()
        except BaseException:
            self._supervisor.kill_all()
            if self._broker is not None and self._broker.process is not None and self._broker.alive():
                self._broker.process.kill()
            raise
        finally:
            self._broker = None
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ---- looking, and meddling (crash tests) ------------------------------------------------------------------------

    @property
    def broker(self) -> brokers.RunningBroker:
        """The broker. Raises RuntimeError before `start` and after `stop`."""
        if self._broker is None:
            raise RuntimeError("the launcher is not started")
        return self._broker

    @property
    def connection(self) -> Connection:
        """How to reach the broker."""
        return self.broker.connection

    @property
    def url(self) -> str | None:
        """Where serve answers; None while it does not."""
        state = read_json(self._serve_file)
        return None if state is None else str(state["url"])

    @property
    def log_dir(self) -> Path:
        """Where every role's log is."""
        return self.data_dir / "logs"

    def pids(self) -> dict[str, int]:
        """Process ids of the roles that live now, by name (`worker-0`)."""
        return self._supervisor.pids()

    def kill(self, name: str, sig: int = signal.SIGKILL) -> int:
        """Send a signal to a role (`worker-0`, or `worker` for its instance 0); returns its pid."""
        return self._supervisor.kill(name if "-" in name else f"{name}-0", sig)

    def add_role(self, role: str, instance: int) -> str:
        """Start one more process of a role; returns its name."""
        child = self._child(role, instance)
        self._supervisor.add(child)
        return child.name

    def remove_role(self, name: str) -> None:
        """Drain one process and do not restart it."""
        self._supervisor.remove(name, per_child_seconds=DRAIN_SECONDS)

    @property
    def _settings_path(self) -> Path:
        return self.data_dir / "run" / "config.toml"

    @property
    def _serve_file(self) -> Path:
        return self.data_dir / "run" / "serve.json"

    def _child(self, role: str, instance: int) -> Child:
        arguments = ["run", role, "--config", str(self._settings_path), "--instance", str(instance)]
        # one port cannot be had by several processes of one machine
        its_own = role == "monitor" and instance == 0 and self.settings.metrics.port is not None
        metrics = {} if its_own else {f"{ENV_PREFIX}METRICS__PORT": "0"}
        return Child(
            f"{role}-{instance}",
            [*self._command, *arguments],
            self.log_dir / (f"{role}.log" if instance == 0 else f"{role}-{instance}.log"),
            ready_path(self.data_dir, role, instance),
            {"PYTHONUNBUFFERED": "1", **self._settings_env, **metrics, **self._env},
        )
