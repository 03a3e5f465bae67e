"""Files that are whole and on disk, or as they were."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from store.base.files import open_atomic, read_json, sweep, write_atomic, write_json

ROOT = Path(__file__).parents[3]

DIE = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
os.replace = lambda *_: os._exit(7)
from store.base.files import write_atomic
write_atomic(Path(sys.argv[1]), "new")
"""


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_crash_before_the_rename_leaves_the_old_content_and_the_owner_sweeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_atomic(path, "old")
    died = subprocess.run([sys.executable, "-c", DIE, str(path), str(ROOT)], check=False)
    assert died.returncode == 7
    assert path.read_text() == "old"
    assert len(names(tmp_path)) == 2
    sweep(tmp_path, "another.json")
    assert len(names(tmp_path)) == 2
    sweep(tmp_path, path.name)
    assert names(tmp_path) == ["state.json"]


def test_what_raises_while_it_writes_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomic(path, b"old")
    with pytest.raises(ZeroDivisionError), open_atomic(path) as file:
        file.writelines([b"half of it"[: 10 // left] for left in (1, 0)])
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_content_then_rename_then_directory_are_synced_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        steps.append(("fsync", os.fstat(handle).st_ino))
        fsync(handle)

    def replaced(old: Path, new: Path) -> None:
        steps.append(("replace", old.stat().st_ino))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    path = tmp_path / "new folder" / "a"
    write_atomic(path, "é")
    file, folder = path.stat().st_ino, path.parent.stat().st_ino
    assert steps == [("fsync", file), ("replace", file), ("fsync", folder)]
    assert path.read_bytes() == "é".encode()


@pytest.mark.parametrize(("mode", "expected"), [(None, 0o640), (0o600, 0o600)])
def test_permissions_are_those_of_a_new_file_or_the_ones_asked_for(
    tmp_path: Path, mode: int | None, expected: int
) -> None:
    path = tmp_path / "a"
    left = tmp_path / f".a.{os.getpid()}.tmp"  # of an earlier process with our pid
    left.touch()
    left.chmod(0o666)
    before = os.umask(0o027)
    try:
        with open_atomic(path) if mode is None else open_atomic(path, mode=mode) as file:
            assert mode_of(left) == expected  # from the first byte on
            file.write(b"secret")
    finally:
        os.umask(before)
    assert mode_of(path) == expected
    assert names(tmp_path) == ["a"]


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "run" / "a.json"
    assert read_json(path) is None
    write_json(path, {"é": [1, None]})
    assert read_json(path) == {"é": [1, None]}
