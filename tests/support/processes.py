"""Real role processes for tests: start them, wait until they are ready, kill them, read what they said."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.run.spawn import Process, Spawn, execute

READY_EVENT = "role_ready"


class Role:
    """A child process with its output in a file.

    Args:
        name: of the log file and in messages.
        command: what to run.
        log_dir: `<name>.log` there collects stdout and stderr of all its lives.
        env: added to ours.
        spawn: starts it; by default an interpreter of its own, else `fork_server.spawn`.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log_dir: Path,
        env: Mapping[str, str] | None = None,
        spawn: Spawn = execute,
    ) -> None:
        self.name = name
        self.log = log_dir / f"{name}.log"
        self._command = list(command)
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._spawn = spawn
        self._process: Process | None = None
        self._life_begins_at = 0

    @property
    def pid(self) -> int:
        """Of the current (or last) life."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    def start(self) -> Role:
        """Start it, or start it again."""
        assert not self.alive(), f"{self.name} runs already"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._life_begins_at = self.log.stat().st_size if self.log.exists() else 0
        self._process = self._spawn(self._command, self._env, self.log)
        return self

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def wait_ready(self, timeout_s: float = 60.0) -> Role:
        """Wait until this life has logged READY_EVENT; fails with the log's tail if it ends or takes too long."""
        self.wait_for(lambda: READY_EVENT in self.output(), f"{self.name} ready", timeout_s)
        return self

    def wait_for(self, true: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
        """Wait for a condition that needs this process to live."""
        deadline = time.monotonic() + timeout_s
        while not true():
            if not self.alive():
                raise AssertionError(f"{self.name} ended with {self.code()} before: {what}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout_s:g} s: {what}\n{self.tail()}")
            time.sleep(0.05)

    def output(self) -> str:
        """What this life has written."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as handle:
            handle.seek(self._life_begins_at)
            return handle.read().decode("utf-8", "replace")

    def events(self, name: str, since: int = 0) -> list[dict[str, Any]]:
        """Log lines of an event name in this life, from a character of `output` on."""
        lines = (json.loads(line) for line in self.output()[since:].splitlines() if line.startswith("{"))
        return [line for line in lines if line.get("event") == name]

    def tail(self, lines: int = 30) -> str:
        """The last lines of this life."""
        return "\n".join(self.output().splitlines()[-lines:])

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, e.g. SIGSTOP and SIGCONT."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        assert self._process is not None
        if self.alive():
            self.signal(signal.SIGKILL)
        self._process.wait()

    def stop(self, timeout_s: float = 20.0) -> int:
        """SIGTERM; returns the exit code. Fails if it does not end in time (and kills it)."""
        assert self._process is not None
        if self.alive():
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"{self.name} did not stop within {timeout_s:g} s\n{self.tail()}") from None
        return self._process.wait()

    def code(self) -> int | None:
        """Exit code, None while it runs."""
        return None if self._process is None else self._process.poll()


@contextlib.contextmanager
def running(*roles: Role, ready_s: float = 60.0) -> Iterator[list[Role]]:
    """Start roles, wait until all are ready, and leave none behind."""
    try:
        for one in roles:
            one.start()
        for one in roles:
            one.wait_ready(ready_s)
        yield list(roles)
    finally:
        for one in roles:
            if one.alive():
                one.signal(signal.SIGCONT)  # a stopped process does not see SIGTERM
                one.kill()


def wait_until(true: Callable[[], bool], what: str, timeout_s: float = 60.0, poll_s: float = 0.05) -> None:
    """Wait for a condition; fails with its name."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(poll_s)
