"""The embedded broker as a child process of this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from deploy.brokers.embedded import Keep
from store.base.errors import BrokerError
from store.base.files import read_json
from stream.kafka.client import Connection

START_SECONDS = 20.0
STOP_SECONDS = 15.0
"""What is kept is written down first."""


class EmbeddedBroker:
    """Starts `python -m deploy.brokers.embedded` and waits until it takes connections. It ends when we do.

    Args:
        ready_file: where the broker writes its address; a stale one is removed.
        topics: name → partitions.
        log_path: where its log goes; None = to our standard error.
        keep: what it is to keep beyond its end.

    Raises:
        BrokerError: it did not come up.
    """

    def __init__(
        self, ready_file: Path, topics: Mapping[str, int], *, log_path: Path | None = None, keep: Keep | None = None
    ) -> None:
        ready_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "deploy.brokers.embedded", "--ready-file", str(ready_file)]
        command += ["--parent", str(os.getpid())]
        for name, partitions in topics.items():
            command += ["--topic", f"{name}:{partitions}"]
        if keep is not None:
            command += ["--keep", str(keep.directory)]
            command += [word for name in keep.topics for word in ("--kept", name)]
            command += [word for group in keep.readers for word in ("--reader", group)]
        # the pipe's only use is that it closes when we are gone
        with ExitStack() as stack:
            log = None
            if log_path is not None:
                log_path.parent.mkdir(parents=True, exist_ok=True)
                log = stack.enter_context(log_path.open("ab"))
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while (state := read_json(ready_file)) is None:
            if self._process.poll() is not None:
                raise BrokerError(
                    f"the embedded broker ended with code {self._process.returncode} at start",
                    action=f"see {log_path}" if log_path else "see its message above",
                )
            if time.monotonic() > deadline:
                self.kill()
                raise BrokerError(
                    f"the embedded broker did not come up within {START_SECONDS:g} s",
                    action="try again on a less busy machine",
                )
            time.sleep(0.02)
        self.restoring = int(state.get("restoring", 0))
        """Messages that it begins with: kept by the one before it."""
        self.connection = Connection(
            bootstrap=state["bootstrap"],
            embedded=True,
            identity=state["identity"],
            control=state["control"],
            keeper=state.get("keeper", ""),
            history=state.get("history", ""),
        )

    @property
    def pid(self) -> int:
        """Of the broker process."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End it; what it held is gone, but for what it keeps."""
        if self.alive():
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        self._close_pipe()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()
        self._close_pipe()

    def restart(self) -> None:
        """Refused: it would be another broker.

        Raises:
            BrokerError: always.
        """
        raise BrokerError(
            "an embedded broker cannot be restarted: all it held is gone with its process",
            action='start anew and replay, or use kafka.bootstrap_servers = "local" where restarts must be survived',
        )

    def _close_pipe(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
