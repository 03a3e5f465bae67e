"""Random harm, from a seed: who is killed, frozen, cut off, wiped, added or taken away, what is deleted, and when."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.crash.deletions import Deletions
from tests.crash.system import System
from tests.support.broker_proxy import END_TXN, INIT_PRODUCER_ID, OFFSET_COMMIT, PRODUCE, TXN_OFFSET_COMMIT

NOBODY = "nobody"
ROLES = ("ingest", "processor", "worker", "serve")
STATEFUL = ("processor", "worker")
SETTINGS = """
[kafka.properties]
"session.timeout.ms" = 6000
"heartbeat.interval.ms" = 1000
[metrics]
lag_interval_seconds = 2
"""
SHORT_SECONDS, LONG_SECONDS = 1.0, 8.0
"""Below and above the session timeout of 6 s, Kafka's least: who is frozen or cut off for long loses its partitions,
and what it had under way arrives after its successor's."""
ANEW_SECONDS = 120.0
HELD = (PRODUCE, END_TXN, TXN_OFFSET_COMMIT, OFFSET_COMMIT, INIT_PRODUCER_ID)
NAMES = {
    "kill": 8, "freeze": 3, "long_freeze": 1, "cut": 2, "long_cut": 2, "hold": 3, "late": 2, "broker": 1,
    "broker_twice": 1, "wipe": 2, "join": 1, "leave": 1, "made_anew": 2, "retention": 3, "nameless": 2,
}  # fmt: skip
"""How often, in proportion."""
_DRAWN = {name: weight for name, weight in NAMES.items() if name != "nameless"}
_NAMELESS_SHARE = 0.25
"""Of rounds: drawn apart, so that a seed's other faults are those that it had before there was this one."""
ON_BROKER = {"broker", "broker_twice", "made_anew", "retention"}


class Fault(NamedTuple):
    """One act of harm. at: seconds after the round began."""

    at: float
    name: str
    target: str


def plan(seed: int, *, seconds: float) -> list[Fault]:
    """The faults of one round, two to six, in order of time."""
    rng = random.Random(seed)
    out = []
    for _ in range(rng.randint(2, 5)):
        name = rng.choices(list(_DRAWN), list(_DRAWN.values()))[0]
        stateful = name in ("wipe", "join", "leave", "long_freeze", "long_cut", "hold", "late")
        target = "" if name in ON_BROKER else rng.choice(STATEFUL if stateful else ROLES)
        out.append(Fault(rng.uniform(0.2, seconds), name, target))
    apart = random.Random(f"nameless {seed}")
    if apart.random() < _NAMELESS_SHARE:
        out.append(Fault(apart.uniform(0.2, seconds), "nameless", apart.choice(ROLES)))
    return sorted(out)


class Harm:
    """Carries faults out. Keeps at least one process of each role, and at most two."""

    def __init__(self, system: System, seed: int) -> None:
        self._system = system
        self._rng = random.Random(seed)
        self._later: list[tuple[float, Callable[[], None]]] = []
        self.done: list[str] = []
        self.counts: Counter[str] = Counter()
        """What really happened, by name."""

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
            "made_anew": self._made_anew,
            "nameless": self._nameless,
            "retention": self._retention,
        }
        told = acts[fault.name](fault.target)
        self.done.append(f"{fault.at:.1f}s {fault.name} {told}".rstrip())
        self.counts[fault.name] += told != NOBODY

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
            self._end(name)
        return name or NOBODY

    def _freeze(self, role: str, seconds: float) -> str:
        if (name := self._pick(role)) and (pid := self._system.launcher.pids().get(name)):
            _send(pid, signal.SIGSTOP)
            self._after(seconds, lambda: _send(pid, signal.SIGCONT))
        return name or NOBODY

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, act))

    def _cut(self, role: str, seconds: float) -> str:
        """Nothing passes between a process and the broker; then what was under way arrives."""
        if name := self._pick(role):
            network = self._system.networks.of(name)
            network.cut()
            self._after(seconds, network.heal)
        return name or NOBODY

    def _nameless(self, role: str) -> str:
        """A process's connections break, and who comes back is told of no broker: librdkafka may be left with none."""
        if name := self._pick(role):
            network = self._system.networks.of(name)
            network.hide()
            network.drop()
            self._after(SHORT_SECONDS, network.show)
        return name or NOBODY

    def _hold(self, role: str) -> str:
        """A process is cut off at the next request of a kind, which arrives when others have its partitions."""
        if not (name := self._pick(role)):
            return NOBODY
        api = self._rng.choice(HELD)
        network = self._system.networks.of(name)
        network.cut_at(api)
        self._after(LONG_SECONDS, network.heal)
        return f"{name} at request {api}"

    def _late(self, role: str) -> str:
        """As `hold`, and the process is killed meanwhile: what arrives is of somebody who is gone."""
        told = self._hold(role)
        if told != NOBODY:
            self._after(SHORT_SECONDS, lambda: self._end(told.partition(" ")[0]))
        return told

    def _end(self, name: str) -> None:
        """Nothing if it is being restarted."""
        if pid := self._system.launcher.pids().get(name):
            _send(pid, signal.SIGKILL)

    def _broker(self, _: str) -> str:
        process = self._system.launcher.broker.process
        assert process is not None
        (process.kill if self._rng.random() < 0.5 else process.stop)()
        process.restart()
        return ""

    def _wipe(self, role: str) -> str:
        """Kill a process, take its disk, start it anew."""
        if not (name := self._pick(role)):
            return NOBODY
        instance = int(name.rsplit("-", 1)[1])
        if pid := self._system.launcher.pids().get(name):
            _send(pid, signal.SIGKILL)
        self._system.launcher.remove_role(name)
        shutil.rmtree(self._folder(role, instance), ignore_errors=True)
        self._system.launcher.add_role(role, instance)
        return name

    def _join(self, role: str) -> str:
        if self._system.count(role) > 1:
            return NOBODY
        taken = {int(name.rsplit("-", 1)[1]) for name in self._system.names if name.startswith(f"{role}-")}
        return self._system.add(role, min({0, 1} - taken))

    def _leave(self, role: str) -> str:
        if self._system.count(role) < 2:
            return NOBODY
        name = self._rng.choice(sorted(n for n in self._system.names if n.startswith(f"{role}-")))
        self._system.remove(name)
        return name

    def _made_anew(self, _: str) -> str:
        """A raw topic is deleted and made anew. What it held was read before, so that we know what becomes of it."""
        system = self._system
        topic = self._rng.choice(sorted(system.sources))
        with system.pausing():
            deadline = time.monotonic() + ANEW_SECONDS
            places = Deletions(system)
            self._wait(lambda: places.all_read(topic), deadline, f"{topic} is not read")
            places.make_anew(topic)
            # what is fetched before ingest has looked may be read twice (docs/architecture.md)
            self._wait(lambda: places.seen_anew(topic), deadline, f"{topic} made anew is not seen")
        return system.sources[topic]

    def _wait(self, true: Callable[[], bool], deadline: float, otherwise: str) -> None:
        while not true():
            assert time.monotonic() < deadline, otherwise
            self.tick()
            self._system.launcher.check()
            time.sleep(0.1)

    def _retention(self, _: str) -> str:
        """Records that all our groups have read are removed, while their reader works or just after it was killed."""
        system = self._system
        topic = self._rng.choice([*sorted(system.sources), system.topics.events])
        killed = (
            self._kill("processor" if topic == system.topics.events else "ingest") if self._rng.random() < 0.5 else ""
        )
        removed = Deletions(system).remove_read(topic)
        return f"{topic} up to {removed}{killed and f', {killed} killed'}"

    def _folder(self, role: str, instance: int) -> Path:
        return self._system.settings.store.data_dir / role / str(instance)


def _send(pid: int, sig: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it died meanwhile
        os.kill(pid, sig)
