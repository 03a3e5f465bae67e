"""The demo empties its own directory and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.demo import directory
from deploy.lock import DataDirLock
from deploy.settings.config import load
from store.base.errors import DataDirLocked, StateError


def test_a_directory_of_an_earlier_demo_is_emptied(tmp_path: Path) -> None:
    data_dir = tmp_path / "deep" / "demo"
    directory.claim(data_dir)
    (data_dir / "processor" / "0").mkdir(parents=True)
    (data_dir / "processor" / "0" / "rows").write_text("old")
    (data_dir / "out.json").write_text("{}")
    (data_dir / "run" / "broker.json").write_text("{}")
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "file").write_text("mine")
    (data_dir / "link").symlink_to(outside)
    directory.claim(data_dir)
    left = sorted(str(path.relative_to(data_dir)) for path in data_dir.rglob("*"))
    assert left == [directory.MARKER, "run", "run/up.lock"]
    assert (outside / "file").read_text() == "mine"


def test_any_other_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StateError, match="not empty"):
        directory.claim(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_directory_in_use_is_left_alone(tmp_path: Path) -> None:
    directory.claim(tmp_path)
    (tmp_path / "state").write_text("live")
    with DataDirLock.acquire(tmp_path), pytest.raises(DataDirLocked):
        directory.claim(tmp_path)
    assert (tmp_path / "state").read_text() == "live"


def test_the_written_config_says_the_same_as_the_settings(tmp_path: Path) -> None:
    settings, path = directory.write_config(tmp_path, broker="local", port=0)
    assert load(path) == settings
    assert settings.kafka.bootstrap_servers == "local"
    assert settings.store.data_dir == tmp_path
