"""State that is deleted, moved or replaced under who writes it."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from deploy.brokers.kept_log import KeptLog, KeptMessage
from deploy.lock import DataDirLock
from deploy.run.state_watch import StateWatch, watching
from store.base.errors import StateError
from store.base.file_lock import lock
from tests.models.events import Open

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells")


def replace(folder: Path) -> None:
    """As the restore of a backup over it."""
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    shutil.rmtree(folder)
    copy.rename(folder)


WAYS = (
    shutil.rmtree,
    lambda folder: folder.rename(folder.with_name("elsewhere")),
    lambda folder: folder.rename(folder.parent.parent / "outside"),
    replace,
)


@pytest.mark.parametrize("way", WAYS, ids=["deleted", "moved", "moved out", "replaced"])
@pytest.mark.parametrize("which", ["processor/0/3", "processor/0", "processor"])
def test_a_buffer_that_is_open_is_seen_to_go(
    tmp_path: Path, way: Callable[[Path], object], which: str, opened: Open
) -> None:
    """RocksDB went on writing into nothing for as long as the role ran."""
    watch = StateWatch(tmp_path / "data")
    buffers = [opened(f"data/processor/0/{partition}") for partition in "34"]
    assert watch.gone() is None
    way(tmp_path / "data" / which)
    gone = watch.gone()
    assert gone is not None
    assert gone.startswith(f"{tmp_path}/data/{which}/")
    for buffer in buffers:
        with suppress(StateError):
            buffer.close()


def test_what_is_closed_may_go(tmp_path: Path, opened: Open) -> None:
    watch = StateWatch(tmp_path)
    for _ in range(2):
        opened("worker/0/1").close()
        assert watch.gone() is None
        shutil.rmtree(tmp_path / "worker")
        assert watch.gone() is None
    opened("worker/0/1")
    assert watch.gone() is None


def test_the_role_is_stopped_and_says_why(tmp_path: Path) -> None:
    stop = threading.Event()
    held = lock(tmp_path / "serve.lock")
    assert held is not None

    def role() -> None:
        with watching(tmp_path, stop, look_seconds=0.01):
            os.unlink(tmp_path / "serve.lock")
            assert stop.wait(30)
            raise RuntimeError("what came of it")

    with held, pytest.raises(StateError, match=r"serve\.lock was removed") as caught:
        role()
    assert caught.value.code == "state_removed"
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_end_of_its_own_is_no_loss(tmp_path: Path) -> None:
    stop = threading.Event()
    with watching(tmp_path, stop, look_seconds=0.01):
        pass
    with pytest.raises(KeyError), watching(tmp_path, stop, look_seconds=0.01):
        raise KeyError
    assert not stop.is_set()


@pytest.mark.parametrize("way", WAYS, ids=["deleted", "moved", "moved out", "replaced"])
def test_a_data_directory_whose_lock_has_gone(tmp_path: Path, way: Callable[[Path], object]) -> None:
    data_dir = tmp_path / "data" / "here"
    with DataDirLock.acquire(data_dir) as held:
        assert held.in_place()
        way(data_dir)
        assert not held.in_place()


def test_what_an_embedded_broker_keeps_is_seen_to_go(tmp_path: Path) -> None:
    kept = KeptLog(tmp_path / "kept")
    kept.append(KeptMessage("t", 0, 1, None, b"x"))
    kept.sync()
    shutil.rmtree(tmp_path / "kept")
    kept.append(KeptMessage("t", 0, 1, None, b"x"))
    with pytest.raises(StateError, match="while the broker wrote it"):
        kept.sync()
