"""The roles as separate processes on a broker of their own: started, drained, weighed, stopped."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deploy.operate.service_client import Service
from deploy.run.attend import wait_ready
from deploy.run.launcher import Launcher
from deploy.settings.config import load
from store.base.errors import AnchorstreamError
from stream.account.reader import AccountReader
from stream.lag.reader import LagReader, plan
from stream.topics import Topics

QUIET_READINGS = 2
"""So many readings in a row must say that all has arrived: one may fall between two topics."""
DRAIN_SECONDS = 600.0
ACCOUNT_SECONDS = 30.0
"""Until processors have told what they counted, at most."""
_POLL_SECONDS = 0.3


class BenchError(AnchorstreamError):
    """What was measured cannot be trusted: the system lost something, or did not keep up at all."""

    code = "bench_failed"


class LiveSystem:
    """Launcher and judge; a context manager.

    Args:
        folder: of all state; empty.
        broker: `local` or `embedded`.
        scenarios: name → query.
    """

    def __init__(self, folder: Path, *, broker: str, scenarios: Mapping[str, str], preset: str = "tiny") -> None:
        overrides: dict[str, Any] = {
            "kafka": {"bootstrap_servers": broker},
            "scenarios": {name: {"query": query} for name, query in scenarios.items()},
            "model": {"preset": preset, "device": "cpu"},
            "store": {"data_dir": str(folder)},
            "serve": {"port": 0},
        }
        self.launcher = Launcher(load(None, overrides=overrides))
        self.settings = self.launcher.settings
        self.topics = Topics(self.settings.kafka)

    def __enter__(self) -> Self:
        self.launcher.start()
        try:
            self.wait_ready()
            raw = {modality.topic for modality in self.settings.modalities.values()}
            self._lag = LagReader(self.launcher.connection, plan(self.topics, raw, self.settings.scenarios))
        except BaseException:
            self.launcher.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lag.close()
        self.launcher.stop()

    def restart_serve(self) -> Service:
        """A new serve process, whose own figures begin now."""
        self.launcher.remove_role("serve-0")
        self.launcher.add_role("serve", 0)
        self.wait_ready()
        return Service.find(self.settings)

    def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Wait until everything produced is queryable: every group's lag is 0.

        Raises:
            BenchError: that took longer than `seconds`.
        """
        deadline, quiet, waiting = time.monotonic() + seconds, 0, "nothing was read"
        while quiet < QUIET_READINGS:
            self.launcher.check()
            report = self._lag.read(max_age_seconds=0)
            quiet = quiet + 1 if report.whole and report.lag_messages == 0 else 0
            waiting = ", ".join(f"{g.role} {g.lag_messages}" for g in report.groups() if g.lag_messages)
            if time.monotonic() > deadline:
                raise BenchError(
                    f"not everything arrived within {seconds:g} s: {waiting}",
                    action="the machine is too slow for this load, or busy: use fewer users a second",
                )
            time.sleep(_POLL_SECONDS)

    def wait_lag(self, role: str, seconds: float) -> float:
        """Wait until this role and those before it have read everything; returns when, monotonic.

        Raises:
            BenchError: that took longer than `seconds`.
        """
        deadline = time.monotonic() + seconds
        while True:
            self.launcher.check()
            groups = self._lag.read(max_age_seconds=0).groups()
            upto = [group.role for group in groups].index(role) + 1
            if not any(group.lag_messages for group in groups[:upto]):
                return time.monotonic()
            if time.monotonic() > deadline:
                raise BenchError(f"{role} is not through after {seconds:g} s", action="use fewer users")
            time.sleep(_POLL_SECONDS)

    def account(self, sent: int) -> None:
        """Every event sent was applied, once.

        Raises:
            BenchError: the account says otherwise.
        """
        raw = {modality.topic for modality in self.settings.modalities.values()}
        with closing(AccountReader(self.launcher.connection, self.topics, raw)) as reader:
            found = reader.settled(seconds=ACCOUNT_SECONDS)
        total = found.totals()
        applied = total["applied"] + total["expired"] + total["evicted"] + total["remembered"]
        if not found.adds_up or not sent == applied == total["published"]:
            raise BenchError(f"sent {sent:,} events; {'; '.join(found.lines())}", action="report this")

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time used so far by each role and the broker; empty where the system does not tell (no /proc)."""
        pids = {name.removesuffix("-0"): pid for name, pid in self.launcher.pids().items()}
        if (process := self.launcher.broker.process) is not None:
            pids["broker"] = process.pid
        try:
            return {name: _cpu_seconds(pid) for name, pid in pids.items()}
        except OSError:
            return {}

    def wait_ready(self) -> None:
        """Until every role is."""
        wait_ready(self.launcher, threading.Event())


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
