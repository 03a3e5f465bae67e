"""Several serves on one data directory: each has a file of its own, and none hides another."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.serve_file import claimed, find, serve_path
from store.base.errors import DataDirLocked


def test_the_end_of_one_does_not_hide_the_other(tmp_path: Path) -> None:
    """C11: both wrote `serve.json`, and the second removed it."""
    with claimed(tmp_path, "0", "as") as first:
        first("http://first")
        with claimed(tmp_path, "b", "as") as second:
            assert find(tmp_path) == {"url": "http://first", "pid": os.getpid(), "topic_prefix": "as"}
            second("http://second")
        assert find(tmp_path) == {"url": "http://first", "pid": os.getpid(), "topic_prefix": "as"}
    assert find(tmp_path) is None
    with claimed(tmp_path, "b", "as") as second:
        second("http://second")
        assert find(tmp_path) == {"url": "http://second", "pid": os.getpid(), "topic_prefix": "as"}


def test_one_instance_is_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.serve_file.LOCK_SECONDS", 0.0)
    with claimed(tmp_path, "0", "as") as first:
        first("http://first")
        with pytest.raises(DataDirLocked, match="instance"), claimed(tmp_path, "0", "as"):
            pass
        assert find(tmp_path) is not None


def test_who_runs_goes_before_what_a_killed_one_left(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from deploy.serve_file import claimed\n"
        "with claimed(Path(sys.argv[1]), '0', 'as') as say: say('http://killed'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=Path(__file__).parents[2], timeout=60)
    assert serve_path(tmp_path).exists()
    with claimed(tmp_path, "b", "as") as second:
        second("http://second")
        found = find(tmp_path)
        assert found is not None
        assert found["url"] == "http://second"
    with claimed(tmp_path, "0", "as"):
        assert find(tmp_path) is None
