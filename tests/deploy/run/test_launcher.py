"""The launcher with a real broker and stand-ins for the roles, as real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.lock import holder
from deploy.run.launcher import Launcher
from deploy.run.supervision import RestartPolicy
from deploy.run.supervisor import ChildEvent, EventKind
from deploy.settings.config import Settings, load
from store.base.errors import BrokerError, ConfigError, DataDirLocked, RoleError

ROOT = Path(__file__).parents[3]
FAST = RestartPolicy(first_delay_seconds=0.05)

ROLE = """
import json, os, signal, sys, time, tomllib
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from deploy.run.ready import ready_path, write_ready
assert sys.argv[2] == "run"
role, instance = sys.argv[3], sys.argv[7]
settings = tomllib.loads(Path(sys.argv[5]).read_text())
data_dir = Path(settings["store"]["data_dir"])
assert json.loads((data_dir / "run" / "broker.json").read_text())["kind"] == settings["kafka"]["bootstrap_servers"]
print(f"{role} sees port {settings['serve']['port']}", flush=True)
if os.environ.get("BREAK") == role:
    sys.exit(1)
def bye(*_):
    with open(data_dir / "order", "a") as f: f.write(f"{role}-{instance}\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, bye)
if role == "serve":
    (data_dir / "run" / "serve.json").write_text(json.dumps({"url": "http://x", "pid": os.getpid()}))
write_ready(ready_path(data_dir, role, instance))
time.sleep(120)
"""

UP = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1]) / "tests" / "deploy" / "run"))
from test_launcher import launcher, settings_in
from deploy.run.interrupt import stop_on_signals
with stop_on_signals() as stop, launcher(settings_in(Path(sys.argv[2]))) as up:
    up.wait_ready(60)
    print(*up.pids().values(), up.broker.process.pid, flush=True)
    up.supervise(stop)
"""


def settings_in(path: Path, **kafka: object) -> Settings:
    return load(None, overrides={"store": {"data_dir": str(path)}, "serve": {"port": 4321}, "kafka": kafka})


def launcher(settings: Settings, **options: object) -> Launcher:
    options = {"roles": ("ingest", "serve"), "policy": FAST, "on_event": id, **options}
    return Launcher(settings, command=(sys.executable, "-c", ROLE, str(ROOT)), **options)  # type: ignore[arg-type]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], object], timeout: float = 15.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def test_up_and_down(tmp_path: Path) -> None:
    events: list[ChildEvent] = []
    roles = {"serve": 1, "worker": 2, "ingest": 1, "processor": 1}
    with launcher(settings_in(tmp_path), roles=roles, on_event=events.append) as up:
        up.wait_ready(60)
        assert up.url == "http://x"
        assert set(up.pids()) == {"serve-0", "worker-0", "worker-1", "ingest-0", "processor-0"}
        assert "anchorstream.events" in up.connection.metadata().topics
        with pytest.raises(DataDirLocked):
            launcher(settings_in(tmp_path)).start()
        pid = up.kill("worker")
        until(lambda: up.pids().get("worker-0", pid) != pid)
        up.wait_ready(30)
        pids = [*up.pids().values(), up.broker.process.pid if up.broker.process else 0]
    assert not any(alive(pid) for pid in pids)
    assert holder(tmp_path) is None
    order = (tmp_path / "order").read_text().split()
    assert order == ["ingest-0", "processor-0", "worker-0", "worker-1", "serve-0"]
    assert "serve sees port 4321" in (tmp_path / "logs" / "serve.log").read_text()
    assert (tmp_path / "logs" / "worker-1.log").exists()
    assert [e.name for e in events if e.kind is EventKind.DIED] == ["worker-0"]
    # and again on the same directory, under a new broker
    with launcher(settings_in(tmp_path)) as up:
        up.wait_ready(60)


def test_a_broken_role_is_told_with_its_lines_and_leaves_nothing(tmp_path: Path) -> None:
    up = launcher(settings_in(tmp_path), env={"BREAK": "serve"})
    up.start()
    broker = up.broker.process
    with pytest.raises(RoleError, match="serve sees port 4321"):
        up.wait_ready(60)
    up.stop()
    assert broker is not None
    assert not broker.alive()
    assert holder(tmp_path) is None
    up.stop()


def test_a_broker_that_died_is_loud(tmp_path: Path) -> None:
    with launcher(settings_in(tmp_path), roles=("ingest",)) as up:
        up.wait_ready(60)
        assert up.broker.process is not None
        os.kill(up.broker.process.pid, signal.SIGKILL)
        with pytest.raises(BrokerError, match="gone"):
            up.supervise(threading.Event())


def test_two_processors_need_a_real_broker(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        launcher(settings_in(tmp_path), roles={"processor": 2})


def start_up(path: Path) -> tuple[subprocess.Popen[str], list[int]]:
    up = subprocess.Popen(
        [sys.executable, "-c", UP, str(ROOT), str(path)],
        stdout=subprocess.PIPE,
        text=True,
        # the tests themselves may run under nohup
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    assert up.stdout is not None
    return up, [int(word) for word in up.stdout.readline().split()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_drains_within_seconds(tmp_path: Path, number: signal.Signals) -> None:
    up, pids = start_up(tmp_path)
    assert all(alive(pid) for pid in pids)
    begun = time.monotonic()
    up.send_signal(number)
    if number == signal.SIGHUP:  # the shell sends one too
        up.send_signal(number)
    assert up.wait(20) == 0
    assert time.monotonic() - begun < 18
    assert not any(alive(pid) for pid in pids)
    assert (tmp_path / "order").read_text().split() == ["ingest-0", "serve-0"]


@pytest.mark.crash
def test_nothing_outlives_a_killed_up_and_the_next_one_starts(tmp_path: Path) -> None:
    up, pids = start_up(tmp_path)
    up.kill()
    up.wait()
    until(lambda: not any(alive(pid) for pid in pids))
    with launcher(settings_in(tmp_path), roles=("ingest",)) as again:
        again.wait_ready(60)
