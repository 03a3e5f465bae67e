"""Locks on files."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from store.base.file_lock import is_locked, lock


def test_one_holds_it_at_a_time_and_asking_creates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    assert not path.exists()
    held = lock(path)
    assert held is not None
    assert is_locked(path)
    assert lock(path) is None
    held.close()
    assert not is_locked(path)


def test_who_waits_gets_it_when_it_becomes_free(tmp_path: Path) -> None:
    first = lock(tmp_path / "lock")
    assert first is not None
    threading.Timer(0.1, first.close).start()
    second = lock(tmp_path / "lock", wait_seconds=60)
    assert second is not None
    assert first.closed
    second.close()


def test_it_lives_as_long_as_a_process_that_the_descriptor_was_passed_to(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = lock(path)
    assert held is not None
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(held.fileno(),)) as child:
        held.close()
        assert is_locked(path)
        child.communicate(b"\n")
    assert not is_locked(path)
