"""Child processes that are kept running: started, watched, restarted with back-off, drained in order.

Children live in sessions of their own, so a terminal's Ctrl-C reaches the parent alone, and are tethered to it, so
none outlives it (`deploy/run/tethered.py`). When to restart is decided by `deploy/run/supervision.py`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from deploy.run import log_file, supervision
from deploy.run.ready import clear_ready, is_ready
from deploy.run.spawn import Process, Spawn, execute
from deploy.run.supervision import ChildState, Phase, RestartPolicy
from store.base import logs
from store.base.errors import RoleError

LOG_LINES_SHOWN = 15
_POLL_SECONDS = 0.05
_SHORTEN_SECONDS = 5.0

log = logs.get(__name__)


class EventKind(StrEnum):
    """What happened to a child."""

    STARTED = "started"
    READY = "ready"
    DIED = "died"
    RESTARTED = "restarted"
    GIVEN_UP = "given_up"
    STOPPED = "stopped"
    KILLED = "killed"
    """It did not stop in its time."""


@dataclass(frozen=True, slots=True)
class Child:
    """What to run. ready_path: the file it writes with `write_ready`; None = ready as soon as it runs.

    env: added to this process's environment; a None removes a variable.
    """

    name: str
    argv: Sequence[str]
    log_path: Path
    ready_path: Path | None = None
    env: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChildEvent:
    """Something a person watching `up` wants to see. log_lines: the child's last ones, where it failed."""

    kind: EventKind
    name: str
    pid: int
    detail: str = ""
    log_path: Path | None = None
    log_lines: tuple[str, ...] = ()


class _Running:
    """A child and its present process. Touched under the supervisor's lock only."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.process: Process | None = None
        self.state = ChildState(Phase.STARTING, 0.0)
        self.log_begin = 0

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """Runs children until `stop`. Its own thread starts, watches and restarts them; every method may be called from
    any thread. `on_event` (default: log it) is called there, or on the thread in `stop`; it must not block long."""

    def __init__(
        self,
        children: Iterable[Child],
        *,
        policy: RestartPolicy | None = None,
        on_event: Callable[[ChildEvent], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        spawn: Spawn = execute,
    ) -> None:
        self._policy = policy or RestartPolicy()
        self._on_event = on_event or log_event
        self._clock = clock
        self._start_process = spawn
        self._lock = threading.RLock()
        self._running: dict[str, _Running] = {}
        self._to_start = [_Running(child) for child in children]
        self._draining = False
        self._finish = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._loop, name="supervisor", daemon=True)

    # ---- life cycle -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all children. Returns at once."""
        self._thread.start()

    def add(self, child: Child) -> None:
        """Start one more child."""
        with self._lock:
            if child.name in self._running:
                raise ValueError(f"a child named {child.name} is running")
            self._to_start.append(_Running(child))

    def remove(self, name: str, *, per_child_seconds: float = 10.0) -> None:
        """Drain one child and forget it."""
        self._drain([name], self._clock() + per_child_seconds, per_child_seconds)
        with self._lock:
            self._running.pop(name, None)

    def stop(self, order: Sequence[str] = (), *, per_child_seconds: float = 10.0, total_seconds: float = 20.0) -> None:
        """Drain all children, one after the other: `order` first (a name or the part before its last `-`), then the
        rest. Each gets SIGTERM and at most `per_child_seconds`, all together `total_seconds`; then SIGKILL. Idempotent.
        """
        with self._lock:
            self._draining = True
            self._to_start.clear()
            rank = {name: i for i, name in enumerate(order)}
            names = sorted(
                self._running, key=lambda name: min(rank.get(name, len(rank)), rank.get(role_of(name), len(rank)))
            )
        self._drain(names, self._clock() + total_seconds, per_child_seconds)
        self._finish.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(5.0)

    def kill_all(self) -> None:
        """SIGKILL to every child, now. Safe to call from a signal handler while `stop` waits."""
        self._draining = True
        for running in list(self._running.values()):
            _signal_group(running, signal.SIGKILL)

    # ---- looking and waiting ----------------------------------------------------------------------------------------

    def pids(self) -> dict[str, int]:
        """Process ids of the children that live now."""
        with self._lock:
            return {name: r.pid for name, r in self._running.items() if r.alive}

    def states(self) -> dict[str, ChildState]:
        """Where each child is."""
        with self._lock:
            return {name: r.state for name, r in self._running.items()}

    def kill(self, name: str, sig: int = signal.SIGKILL) -> int:
        """Send a signal to one child (for tests); returns its pid. Raises KeyError if it does not run."""
        with self._lock:
            running = self._running[name]
            if not running.alive:
                raise KeyError(f"{name} is not running")
            os.kill(running.pid, sig)
            return running.pid

    def wait_ready(self, timeout: float, names: Sequence[str] | None = None) -> None:
        """Block until all (or the named) children are ready.

        Raises:
            RoleError: one was given up, or not all were ready in time; the message carries its last log lines.
        """
        deadline = self._clock() + timeout
        while True:
            self.check()
            with self._lock:
                waited = {n: r for n, r in self._running.items() if names is None or n in names}
                missing = [n for n, r in waited.items() if r.state.phase is not Phase.READY]
                unborn = bool(self._to_start) or (names is not None and len(waited) < len(names))
            if not missing and not unborn:
                return
            if self._clock() >= deadline:
                raise self._too_late(missing, timeout)
            time.sleep(_POLL_SECONDS)

    def wait(self, stop: threading.Event) -> None:
        """Block until `stop` is set. Raises RoleError as soon as a child is given up."""
        while not stop.wait(_POLL_SECONDS):
            self.check()

    def check(self) -> None:
        """Raise what ended the supervision: RoleError for a child given up, or a fault of the supervisor itself."""
        if self._fault is not None:
            raise self._fault

    def tell(self, event: ChildEvent) -> None:
        """Pass on an event of something that is looked after elsewhere (the broker)."""
        self._on_event(event)

    def _too_late(self, missing: Sequence[str], timeout: float) -> RoleError:
        lines = []
        for name in missing:
            running = self._running[name]
            lines += [f"{name} (log: {running.child.log_path})", *(f"  {line}" for line in self._last_lines(running))]
        return RoleError(
            f"not ready after {timeout:.0f} s: {', '.join(missing)}\n" + "\n".join(lines),
            action="read the log; on a slow machine wait longer",
            code="role_not_ready",
        )

    # ---- the supervisor's thread ------------------------------------------------------------------------------------

    def _loop(self) -> None:
        shorten_at = self._clock() + _SHORTEN_SECONDS
        try:
            while not self._finish.is_set():
                with self._lock:
                    events = list(self._tick())
                for event in events:
                    self._on_event(event)
                if self._clock() >= shorten_at:
                    shorten_at = self._clock() + _SHORTEN_SECONDS
                    for running in list(self._running.values()):
                        log_file.shorten(running.child.log_path)
                self._finish.wait(_POLL_SECONDS)
        except Exception as exc:
            # the kernel kills the children when this thread ends: nothing may go on unwatched
            self._fault = exc
            self.kill_all()

    def _tick(self) -> Iterable[ChildEvent]:
        now = self._clock()
        while self._to_start:
            running = self._to_start.pop(0)
            self._running[running.child.name] = running
            log_file.rotate(running.child.log_path)
            running.state = supervision.started(now)
            yield self._spawn(running, EventKind.STARTED)
        for running in list(self._running.values()):
            if self._draining:
                return
            if supervision.due(running.state, now):
                running.state = supervision.on_restart(running.state, now)
                yield self._spawn(running, EventKind.RESTARTED)
            elif running.state.phase in (Phase.STARTING, Phase.READY):
                # ready before exit: a child that says so and dies within one poll has still been ready
                if running.state.phase is Phase.STARTING and self._says_ready(running):
                    running.state = supervision.on_ready(running.state, now)
                    yield ChildEvent(EventKind.READY, running.child.name, running.pid)
                if not running.alive:
                    yield self._bury(running, now)

    def _spawn(self, running: _Running, kind: EventKind) -> ChildEvent:
        child = running.child
        if child.ready_path is not None:
            child.ready_path.parent.mkdir(parents=True, exist_ok=True)
            clear_ready(child.ready_path)
        child.log_path.parent.mkdir(parents=True, exist_ok=True)
        running.log_begin = child.log_path.stat().st_size if child.log_path.exists() else 0
        env = {name: value for name, value in {**os.environ, **child.env}.items() if value is not None}
        running.process = self._start_process(child.argv, env, child.log_path)
        return ChildEvent(kind, child.name, running.pid, log_path=child.log_path)

    def _says_ready(self, running: _Running) -> bool:
        path = running.child.ready_path
        return path is None or is_ready(path, running.pid)

    def _bury(self, running: _Running, now: float) -> ChildEvent:
        child, process = running.child, running.process
        assert process is not None
        code = process.poll()
        assert code is not None
        _signal_group(running, signal.SIGKILL)  # what it left behind must not go on beside its successor
        running.state = supervision.on_exit(running.state, now, code, self._policy)
        lines = self._last_lines(running)
        how = describe_exit(code)
        if running.state.phase is not Phase.GIVEN_UP:
            detail = f"{how}; restart in {running.state.retry_at - now:.1f} s"
            return ChildEvent(EventKind.DIED, child.name, process.pid, detail, child.log_path, lines)
        deaths = running.state.deaths_in_a_row
        self._fault = RoleError(
            f"{child.name} {how} {deaths} time{'s' if deaths > 1 else ''} and was never ready\n"
            + "\n".join(f"  {line}" for line in lines),
            action=f"mend what its last lines say (whole log: {child.log_path}) and start again",
        )
        return ChildEvent(EventKind.GIVEN_UP, child.name, process.pid, how, child.log_path, lines)

    def _last_lines(self, running: _Running) -> tuple[str, ...]:
        return tuple(log_file.last_lines(running.child.log_path, LOG_LINES_SHOWN, since_byte=running.log_begin))

    def _drain(self, names: Sequence[str], deadline: float, per_child_seconds: float) -> None:
        for name in names:
            with self._lock:
                running = self._running.get(name)
                if running is None:
                    continue
                begun = self._clock()
                running.state = supervision.on_stop(running.state, begun)
                process = running.process
            if process is None or process.poll() is not None:
                continue
            process.terminate()
            kind = EventKind.STOPPED
            try:
                code = process.wait(supervision.drain_seconds(begun, deadline, per_child_seconds))
            except subprocess.TimeoutExpired:
                kind = EventKind.KILLED
                _signal_group(running, signal.SIGKILL)
                code = process.wait()
            lines = self._last_lines(running) if kind is EventKind.KILLED else ()
            detail = f"{describe_exit(code)} after {self._clock() - begun:.1f} s"
            self._on_event(ChildEvent(kind, name, process.pid, detail, running.child.log_path, lines))
            if running.child.ready_path is not None:
                clear_ready(running.child.ready_path)


_LOG_NAMES = {
    EventKind.STARTED: logs.ROLE_STARTED,
    EventKind.READY: logs.ROLE_READY,
    EventKind.DIED: logs.ROLE_DIED,
    EventKind.RESTARTED: logs.ROLE_RESTARTED,
    EventKind.GIVEN_UP: logs.ROLE_FAILED,
    EventKind.STOPPED: logs.ROLE_STOPPED,
    EventKind.KILLED: logs.ROLE_STOPPED,
}


def log_event(event: ChildEvent) -> None:
    """The event as a line of this process's log."""
    bad = event.kind in (EventKind.DIED, EventKind.GIVEN_UP, EventKind.KILLED)
    what = {"name": event.name, "pid": event.pid, "detail": event.detail, "last_lines": list(event.log_lines)}
    (log.warning if bad else log.info)(_LOG_NAMES[event.kind], **{key: value for key, value in what.items() if value})


def role_of(name: str) -> str:
    """`processor-1` → `processor`."""
    return name.rpartition("-")[0] or name


def describe_exit(code: int) -> str:
    """`exited with code 3`, `was killed by SIGKILL`."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _signal_group(running: _Running, sig: int) -> None:
    if running.process is None:
        return
    try:
        os.killpg(running.process.pid, sig)
    except (ProcessLookupError, PermissionError):
        return  # nobody is left in it (macOS says EPERM for a group of zombies)
