"""A terminal that is closed drains as Ctrl-C does; what was started under `nohup` goes on."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.run.interrupt import stop_on_signals

ROOT = Path(__file__).parents[3]
WORK = """
import sys, time
from pathlib import Path
from deploy import output
from deploy.run.interrupt import stop_on_signals
with stop_on_signals() as stop:
    Path(sys.argv[1], "begun").touch()
    while not stop.wait(0.05):
        pass
    for i in range(3):  # nobody can read this
        output.note(f"draining {i}")
        time.sleep(0.05)
    Path(sys.argv[1], "drained").touch()
"""


def test_a_closed_terminal_is_a_stop(tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
        os.execve(sys.executable, [sys.executable, "-c", WORK, str(tmp_path)], {**os.environ, "PYTHONPATH": str(ROOT)})
    while not (tmp_path / "begun").exists():
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (tmp_path / "drained").exists()


def test_nohup_stays_nohup(tmp_path: Path) -> None:
    work = subprocess.Popen(
        ["nohup", sys.executable, "-c", WORK, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    while not (tmp_path / "begun").exists():
        pass
    work.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        work.wait(1)
    work.send_signal(signal.SIGTERM)
    assert work.wait(20) == 0
    assert (tmp_path / "drained").exists()


def test_handlers_are_as_before_afterwards() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with stop_on_signals():
        assert [signal.getsignal(number) for number in numbers] != before
    assert [signal.getsignal(number) for number in numbers] == before
