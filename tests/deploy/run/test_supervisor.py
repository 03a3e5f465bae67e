"""The supervisor on real processes: tiny scripts as children."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.run.log_file import last_lines, rotate, shorten
from deploy.run.supervision import RestartPolicy
from deploy.run.supervisor import Child, ChildEvent, EventKind, Supervisor, describe_exit, role_of
from store.base.errors import RoleError

FAST = RestartPolicy(first_delay_seconds=0.05, max_delay_seconds=0.2)
ROOT = Path(__file__).parents[3]

READY = f"""
import os, signal, sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from deploy.run.ready import write_ready
ready = lambda: write_ready(Path(os.environ["READY"]))
"""


def until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Stage:
    """Makes children out of scripts and collects events."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[ChildEvent] = []
        self.supervisors: list[Supervisor] = []

    def child(self, name: str, body: str, *, needs_ready: bool = True) -> Child:
        ready = self.path / "run" / f"{name}.ready"
        return Child(
            name,
            [sys.executable, "-c", READY + textwrap.dedent(body)],
            self.path / "logs" / f"{name}.log",
            ready if needs_ready else None,
            {"READY": str(ready)},
        )

    def run(self, *children: Child, policy: RestartPolicy = FAST) -> Supervisor:
        supervisor = Supervisor(children, policy=policy, on_event=self.events.append)
        self.supervisors.append(supervisor)
        supervisor.start()
        return supervisor

    def kinds(self, name: str) -> list[EventKind]:
        return [e.kind for e in self.events if e.name == name]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    for supervisor in made.supervisors:
        supervisor.kill_all()
        supervisor.stop(total_seconds=1)


SLEEPER = """
ready()
print("up", flush=True)
time.sleep(60)
"""


def test_a_killed_child_is_restarted_and_its_last_lines_shown(stage: Stage) -> None:
    sup = stage.run(stage.child("worker-0", SLEEPER))
    sup.wait_ready(10)
    first = sup.kill("worker-0", signal.SIGKILL)
    until(lambda: sup.pids().get("worker-0", first) != first)
    sup.wait_ready(10)
    died = next(e for e in stage.events if e.kind is EventKind.DIED)
    assert died.pid == first
    assert "SIGKILL" in died.detail
    assert died.log_lines == ("up",)
    assert stage.kinds("worker-0") == [
        EventKind.STARTED, EventKind.READY, EventKind.DIED, EventKind.RESTARTED, EventKind.READY,
    ]  # fmt: skip


def test_ready_is_said_by_this_process_not_by_its_predecessor(stage: Stage) -> None:
    marker = stage.path / "again"
    body = f"""
    marker = Path({str(marker)!r})
    if not marker.exists():
        marker.touch(); ready(); time.sleep(60)
    time.sleep(60)
    """
    sup = stage.run(stage.child("serve-0", body))
    sup.wait_ready(10)
    sup.kill("serve-0")
    until(lambda: EventKind.RESTARTED in stage.kinds("serve-0"))
    with pytest.raises(RoleError, match="not ready after"):
        sup.wait_ready(0.3)


def test_a_child_that_never_gets_ready_is_given_up_with_its_lines(stage: Stage) -> None:
    sup = stage.run(
        stage.child("ingest-0", "print('no such topic', flush=True); sys.exit(3)"), stage.child("serve-0", SLEEPER)
    )
    with pytest.raises(RoleError) as caught:
        sup.wait_ready(20)
    assert "ingest-0 exited with code 3 3 times" in caught.value.detail
    assert "no such topic" in caught.value.detail
    assert str(stage.path / "logs" / "ingest-0.log") in caught.value.action
    assert stage.kinds("ingest-0").count(EventKind.RESTARTED) == 2
    with pytest.raises(RoleError):
        sup.wait(threading.Event())


def test_a_wrong_configuration_is_not_tried_twice(stage: Stage) -> None:
    sup = stage.run(stage.child("ingest-0", "sys.exit(2)"))
    with pytest.raises(RoleError):
        sup.wait_ready(10)
    assert EventKind.RESTARTED not in stage.kinds("ingest-0")


def test_stop_drains_in_order_and_the_deaf_are_killed_in_time(stage: Stage) -> None:
    polite = """
    def bye(*_):
        time.sleep(0.1); print("drained", flush=True); sys.exit(0)
    signal.signal(signal.SIGTERM, bye)
    ready(); time.sleep(60)
    """
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nready(); time.sleep(60)"
    sup = stage.run(
        stage.child("serve-0", polite), stage.child("worker-0", deaf), stage.child("ingest-0", polite),
        stage.child("processor-1", polite), stage.child("processor-0", polite),
    )  # fmt: skip
    sup.wait_ready(20)
    pids = sup.pids().values()
    begun = time.monotonic()
    sup.stop(["ingest", "processor", "worker", "serve"], per_child_seconds=0.7, total_seconds=5)
    took = time.monotonic() - begun
    ended = [(e.name, e.kind) for e in stage.events if e.kind in (EventKind.STOPPED, EventKind.KILLED)]
    assert [name for name, _ in ended] == ["ingest-0", "processor-1", "processor-0", "worker-0", "serve-0"]
    assert dict(ended)["worker-0"] is EventKind.KILLED
    assert dict(ended)["serve-0"] is EventKind.STOPPED
    assert took < 30
    assert all(gone(pid) for pid in pids)
    assert last_lines(stage.path / "logs" / "serve-0.log", 1) == ["drained"]
    assert not list((stage.path / "run").glob("*.ready"))


def test_a_suspended_child_does_not_hold_up_the_stop(stage: Stage) -> None:
    sup = stage.run(stage.child("worker-0", SLEEPER))
    sup.wait_ready(10)
    pid = sup.kill("worker-0", signal.SIGSTOP)
    begun = time.monotonic()
    sup.stop(per_child_seconds=0.3)
    assert time.monotonic() - begun < 30
    assert gone(pid)


def test_kill_all_ends_a_stop_that_waits(stage: Stage) -> None:
    sup = stage.run(stage.child("worker-0", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nready(); time.sleep(60)"))
    sup.wait_ready(10)
    threading.Timer(0.2, sup.kill_all).start()
    begun = time.monotonic()
    sup.stop(per_child_seconds=30, total_seconds=30)
    assert time.monotonic() - begun < 25


def test_children_come_and_go(stage: Stage) -> None:
    sup = stage.run(stage.child("processor-0", SLEEPER))
    sup.wait_ready(10)
    sup.add(stage.child("processor-1", SLEEPER))
    sup.wait_ready(10, ["processor-0", "processor-1"])
    pid = sup.pids()["processor-1"]
    sup.remove("processor-1", per_child_seconds=2)
    assert gone(pid)
    sup.kill("processor-0")
    until(lambda: EventKind.RESTARTED in stage.kinds("processor-0"))  # it has looked at all of them since
    assert set(sup.pids()) == {"processor-0"}
    assert EventKind.DIED not in stage.kinds("processor-1")
    assert stage.kinds("processor-1").count(EventKind.STARTED) == 1


def test_no_child_outlives_a_killed_parent(stage: Stage) -> None:
    script = f"""
    import sys, time
    sys.path.insert(0, {str(ROOT)!r})
    from pathlib import Path
    from deploy.run.supervisor import Child, Supervisor
    child = Child("a-0", [sys.executable, "-c", "import time; time.sleep(60)"], Path(sys.argv[1]))
    sup = Supervisor([child], on_event=id)
    sup.start(); sup.wait_ready(10)
    print(sup.pids()["a-0"], flush=True)
    time.sleep(60)
    """
    argv = [sys.executable, "-c", textwrap.dedent(script), str(stage.path / "a.log")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.kill()
    until(lambda: gone(pid), timeout=5)


def test_what_a_dead_child_left_behind_goes_too(stage: Stage) -> None:
    body = """
    import subprocess
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(left.pid, flush=True)
    ready(); time.sleep(60)
    """
    sup = stage.run(stage.child("worker-0", body))
    sup.wait_ready(10)
    left = int(last_lines(stage.path / "logs" / "worker-0.log", 1)[0])
    sup.kill("worker-0")
    until(lambda: gone(left))


def test_a_fault_of_the_watcher_stops_everything_and_is_told(stage: Stage) -> None:
    def broken(event: ChildEvent) -> None:
        if event.kind is EventKind.READY:
            raise OSError("terminal gone")

    sup = Supervisor([stage.child("worker-0", SLEEPER)], on_event=broken)
    stage.supervisors.append(sup)
    sup.start()
    with pytest.raises(OSError, match="terminal gone"):
        sup.wait(threading.Event())
    until(lambda: not sup.pids())


def test_logs_are_rotated_and_stay_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    for n in range(4):
        path.write_text(f"run {n}\n")
        rotate(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.log.1", "a.log.2"]
    assert (tmp_path / "a.log.1").read_text() == "run 3\n"

    with path.open("ab") as writer:  # as a child holds it
        writer.write(b"x" * 2000)
        writer.flush()
        assert shorten(path, max_bytes=1000)
        writer.write(b"after\n")
        writer.flush()
    assert path.read_bytes() == b"after\n"
    assert (tmp_path / "a.log.1").stat().st_size == 2000
    assert not shorten(path, max_bytes=1000)


def test_last_lines_are_of_this_run_and_lenient(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"old\n" + b"\xff\xfe broken\n" + b"last\n")
    assert last_lines(path, 10, since_byte=4) == ["\ufffd\ufffd broken", "last"]
    assert last_lines(path, 1) == ["last"]
    assert last_lines(path, 5, since_byte=10_000) == ["old", "\ufffd\ufffd broken", "last"]
    assert last_lines(tmp_path / "none", 5) == []


def test_names() -> None:
    assert role_of("processor-12") == "processor"
    assert role_of("broker") == "broker"
    assert describe_exit(-9) == "was killed by SIGKILL"
    assert describe_exit(0) == "exited with code 0"


@pytest.mark.parametrize("what", ["a folder in its place", "gone", "a folder as its copy"])
def test_a_log_that_cannot_be_shortened_ends_nothing(tmp_path: Path, what: str) -> None:
    """It ended the supervisor's thread, and with it every role: a full disk, or a logrotate at that moment."""
    path = tmp_path / "role.log"
    if what == "a folder in its place":
        path.mkdir()
        assert not shorten(path, max_bytes=0)
    elif what == "gone":
        assert not shorten(path, max_bytes=0)
    else:
        path.write_bytes(b"x" * 2000)
        for number in (1, 2):
            (tmp_path / f"role.log.{number}" / "taken").mkdir(parents=True)
        assert shorten(path, max_bytes=1000)
        assert path.stat().st_size == 0
