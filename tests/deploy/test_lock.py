"""One `up` per data directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.lock import LOCK_FILE, DataDirLock, holder
from store.base.errors import DataDirLocked, StateError

HOLD = """
import sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from deploy.lock import DataDirLock
lock = DataDirLock.acquire(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_one_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", HOLD, str(tmp_path), str(Path(__file__).parents[2])]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(DataDirLocked) as caught:
            DataDirLock.acquire(tmp_path)
        assert f"pid {other.pid}" in caught.value.detail
        assert str(tmp_path) in caught.value.detail
        assert "--data-dir" in caught.value.action
        held = holder(tmp_path)
        assert held is not None
        assert held.pid == other.pid
        other.kill()
        other.wait()
    # its file is still there and no obstacle
    assert (tmp_path / LOCK_FILE).exists()
    assert holder(tmp_path) is None
    with DataDirLock.acquire(tmp_path):
        held = holder(tmp_path)
        assert held is not None
        assert held.pid == os.getpid()


def test_released_is_free_and_release_is_idempotent(tmp_path: Path) -> None:
    lock = DataDirLock.acquire(tmp_path / "new" / "dir")
    lock.release()
    lock.release()
    DataDirLock.acquire(tmp_path / "new" / "dir").release()
    assert holder(tmp_path / "nowhere") is None


def test_children_do_not_inherit_it(tmp_path: Path) -> None:
    lock = DataDirLock.acquire(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        lock.release()
        with DataDirLock.acquire(tmp_path):
            held = holder(tmp_path)
            assert held is not None
            assert held.pid == os.getpid()
        assert child.poll() is None
        child.kill()


def test_an_unwritable_place_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError) as caught:
        DataDirLock.acquire(tmp_path / "file" / "data")
    assert caught.value.code == "data_dir_unwritable"
    assert "store.data_dir" in caught.value.action
