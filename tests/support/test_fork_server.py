"""A fork is a process as an interpreter of its own would be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.run.spawn import Process, Spawn, execute
from tests.support.processes import wait_until

ROOT = Path(__file__).parents[2]
WHO = [sys.executable, "-m", "tests.support.says_who"]
ORPHAN = """
import os, sys, time
from pathlib import Path
from tests.support import fork_server
fork_server.start()
fork_server.spawn([sys.executable, "-m", "tests.support.says_who", "stay"], os.environ, Path(sys.argv[1]))
time.sleep(600)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere roles are not forked")


@pytest.fixture(params=["fork", "exec"])
def either(request: pytest.FixtureRequest) -> Spawn:
    return execute if request.param == "exec" else request.getfixturevalue("spawn")


def said(log: Path) -> dict[str, Any]:
    wait_until(lambda: log.exists() and log.read_text().endswith("}\n"), "it has said who it is")
    found: dict[str, Any] = json.loads(log.read_text().splitlines()[-1])
    return found


def ended(pid: int) -> Callable[[], bool]:
    def check() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    return check


def test_it_has_its_own_session_arguments_environment_and_log(either: Spawn, tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "ONLY": "this"}
    for code in (0, 3):
        child = either([*WHO, str(code), "two words"], env, tmp_path / "log")
        assert child.wait(60) == code
        assert child.poll() == code
        who = said(tmp_path / "log")
        assert who["argv"] == [str(code), "two words"]
        assert who["pid"] == who["session"] == child.pid
        assert who["env"].items() >= env.items()
        assert "HOME" not in who["env"]
    assert len((tmp_path / "log").read_text().splitlines()) == 2, "appended"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_ends_it_and_is_its_code(either: Spawn, tmp_path: Path, number: signal.Signals) -> None:
    child: Process = either([*WHO, "stay"], os.environ, tmp_path / "log")
    said(tmp_path / "log")
    assert child.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.01)
    os.kill(child.pid, number)
    assert child.wait(60) == -number
    child.terminate()  # without effect


def test_it_starts_with_everything_imported(spawn: Spawn, tmp_path: Path) -> None:
    assert spawn([*WHO, "0"], os.environ, tmp_path / "log").wait(60) == 0
    assert said(tmp_path / "log")["torch"]


@pytest.mark.slow
def test_nothing_outlives_a_killed_pytest(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN, str(tmp_path / "log")], cwd=ROOT)
    try:
        deadline = time.monotonic() + 280
        while not (tmp_path / "log").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        who = said(tmp_path / "log")
        assert not ended(who["pid"])()
    finally:
        parent.kill()
        parent.wait()
    wait_until(ended(who["pid"]), "the fork is gone")
    wait_until(ended(who["parent"]), "the fork server is gone")
