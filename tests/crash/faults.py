"""Random harm, from a seed: who is killed, frozen, wiped, added or taken away, and when."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.crash.system import System

ROLES = ("ingest", "processor", "worker", "serve")
STATEFUL = ("processor", "worker")
FREEZE_SHORT_SECONDS, FREEZE_LONG_SECONDS = 1.0, 13.0
"""Below and above the session timeout of 10 s: a long freeze loses its partitions and wakes up as a zombie."""


class Fault(NamedTuple):
    """One act of harm. at: seconds after the round began."""

    at: float
    name: str
    target: str


def plan(seed: int, *, seconds: float) -> list[Fault]:
    """The faults of one round, two to five, in order of time."""
    rng = random.Random(seed)
    out = []
    for _ in range(rng.randint(2, 5)):
        name = rng.choices(("kill", "freeze", "long_freeze", "broker", "wipe", "join", "leave"), (8, 3, 1, 1, 2, 1, 1))[
            0
        ]
        target = {"broker": "broker", "wipe": rng.choice(STATEFUL), "join": rng.choice(STATEFUL)}.get(
            name, rng.choice(STATEFUL if name in ("leave", "long_freeze") else ROLES)
        )
        out.append(Fault(rng.uniform(0.2, seconds), name, target))
    return sorted(out)


class Harm:
    """Carries faults out. Keeps at least one process of each role, and at most two."""

    def __init__(self, system: System, seed: int) -> None:
        self._system = system
        self._rng = random.Random(seed)
        self._frozen: list[tuple[float, int]] = []
        self.done: list[str] = []

    def carry_out(self, fault: Fault) -> None:
        """Do it now; freezes are thawed later by `tick`."""
        acts: dict[str, Callable[[str], str]] = {
            "kill": self._kill,
            "freeze": lambda t: self._freeze(t, FREEZE_SHORT_SECONDS),
            "long_freeze": lambda t: self._freeze(t, FREEZE_LONG_SECONDS),
            "broker": self._broker,
            "wipe": self._wipe,
            "join": self._join,
            "leave": self._leave,
        }
        self.done.append(f"{fault.at:.1f}s {fault.name} {acts[fault.name](fault.target)}")

    def tick(self) -> None:
        """Thaw what has been frozen long enough."""
        now = time.monotonic()
        for until, pid in [f for f in self._frozen if f[0] <= now]:
            self._frozen.remove((until, pid))
            _send(pid, signal.SIGCONT)

    def thaw(self) -> None:
        """Wait until nothing is frozen."""
        while self._frozen:
            time.sleep(0.1)
            self.tick()

    def _pick(self, role: str) -> str | None:
        alive = sorted(name for name in self._system.launcher.pids() if name.startswith(f"{role}-"))
        return self._rng.choice(alive) if alive else None

    def _kill(self, role: str) -> str:
        if name := self._pick(role):
            self._system.launcher.kill(name)
        return str(name)

    def _freeze(self, role: str, seconds: float) -> str:
        if (name := self._pick(role)) and (pid := self._system.launcher.pids().get(name)):
            _send(pid, signal.SIGSTOP)
            self._frozen.append((time.monotonic() + seconds, pid))
        return str(name)

    def _broker(self, _: str) -> str:
        process = self._system.launcher.broker.process
        assert process is not None
        (process.kill if self._rng.random() < 0.5 else process.stop)()
        process.restart()
        return ""

    def _wipe(self, role: str) -> str:
        """Kill a process, take its disk, start it anew."""
        if not (name := self._pick(role)):
            return "nobody"
        instance = int(name.rsplit("-", 1)[1])
        if pid := self._system.launcher.pids().get(name):
            _send(pid, signal.SIGKILL)
        self._system.launcher.remove_role(name)
        shutil.rmtree(self._folder(role, instance), ignore_errors=True)
        self._system.launcher.add_role(role, instance)
        return name

    def _join(self, role: str) -> str:
        if self._system.count(role) > 1:
            return "nobody"
        taken = {int(name.rsplit("-", 1)[1]) for name in self._system.names if name.startswith(f"{role}-")}
        return self._system.add(role, min({0, 1} - taken))

    def _leave(self, role: str) -> str:
        if self._system.count(role) < 2:
            return "nobody"
        name = self._rng.choice(sorted(n for n in self._system.names if n.startswith(f"{role}-")))
        self._system.remove(name)
        return name

    def _folder(self, role: str, instance: int) -> Path:
        return self._system.settings.store.data_dir / role / str(instance)


def _send(pid: int, sig: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it died meanwhile
        os.kill(pid, sig)
