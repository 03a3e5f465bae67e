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
from tests.support.broker_proxy import END_TXN, INIT_PRODUCER_ID, OFFSET_COMMIT, PRODUCE, TXN_OFFSET_COMMIT

ROLES = ("ingest", "processor", "worker", "serve")
STATEFUL = ("processor", "worker")
SHORT_SECONDS, LONG_SECONDS = 1.0, 13.0
"""Below and above the session timeout of 10 s: who is frozen or cut off for long loses its partitions, and
what it had under way arrives after its successor's."""
HELD = (PRODUCE, END_TXN, TXN_OFFSET_COMMIT, OFFSET_COMMIT, INIT_PRODUCER_ID)
NAMES = {
    "kill": 8, "freeze": 3, "long_freeze": 1, "cut": 2, "long_cut": 2, "hold": 3, "late": 2, "broker": 1,
    "broker_twice": 1, "wipe": 2, "join": 1, "leave": 1,
}  # fmt: skip
"""How often, in proportion."""


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
        name = rng.choices(list(NAMES), list(NAMES.values()))[0]
        stateful = name in ("wipe", "join", "leave", "long_freeze", "long_cut", "hold", "late")
        target = "" if name.startswith("broker") else rng.choice(STATEFUL if stateful else ROLES)
        out.append(Fault(rng.uniform(0.2, seconds), name, target))
    return sorted(out)


class Harm:
    """Carries faults out. Keeps at least one process of each role, and at most two."""

    def __init__(self, system: System, seed: int) -> None:
        self._system = system
        self._rng = random.Random(seed)
        self._later: list[tuple[float, Callable[[], None]]] = []
        self.done: list[str] = []

    def carry_out(self, fault: Fault) -> None:
        """Do it now; what was frozen or cut is mended later by `tick`."""
        acts: dict[str, Callable[[str], str]] = {
            "kill": self._kill,
            "freeze": lambda t: self._freeze(t, SHORT_SECONDS),
            "long_freeze": lambda t: self._freeze(t, LONG_SECONDS),
            "cut": lambda t: self._cut(t, SHORT_SECONDS),
            "long_cut": lambda t: self._cut(t, LONG_SECONDS),
            "hold": self._hold,
            "late": self._late,
            "broker": self._broker,
            "broker_twice": lambda t: self._broker(t) + self._broker(t),
            "wipe": self._wipe,
            "join": self._join,
            "leave": self._leave,
        }
        self.done.append(f"{fault.at:.1f}s {fault.name} {acts[fault.name](fault.target)}")

    def tick(self) -> None:
        """Mend what has been frozen or cut for long enough."""
        now = time.monotonic()
        for entry in [entry for entry in self._later if entry[0] <= now]:
            self._later.remove(entry)
            entry[1]()

    def mend(self) -> None:
        """Wait until nothing is frozen or cut."""
        while self._later:
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
            self._after(seconds, lambda: _send(pid, signal.SIGCONT))
        return str(name)

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, act))

    def _cut(self, role: str, seconds: float) -> str:
        """Nothing passes between a process and the broker; then what was under way arrives."""
        if name := self._pick(role):
            network = self._system.networks.of(name)
            network.cut()
            self._after(seconds, network.heal)
        return str(name)

    def _hold(self, role: str) -> str:
        """A process is cut off at the next request of a kind, which arrives when others have its partitions."""
        if not (name := self._pick(role)):
            return "nobody"
        api = self._rng.choice(HELD)
        network = self._system.networks.of(name)
        network.cut_at(api)
        self._after(LONG_SECONDS, network.heal)
        return f"{name} at request {api}"

    def _late(self, role: str) -> str:
        """As `hold`, and the process is killed meanwhile: what arrives is of somebody who is gone."""
        told = self._hold(role)
        if told != "nobody":
            self._after(SHORT_SECONDS, lambda: self._system.launcher.kill(told.partition(" ")[0]))
        return told

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
