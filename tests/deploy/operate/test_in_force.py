"""Who changes the file while `up` runs is told so: `up` reads it once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from deploy.checks.finding import Level
from deploy.checks.in_force import check_in_force, not_in_force
from deploy.lock import DataDirLock
from deploy.operate import preflight
from deploy.operate.answers import each
from deploy.run.child_settings import write_child_settings
from deploy.settings.config import Settings, load
from store.base.errors import AnchorstreamError, NotFoundError

VISIT = {"visit": {"topic": "gym", "text": "{Club}"}}


def settings_in(path: Path, user_id: str = "Member", **sections: Mapping[str, object]) -> Settings:
    mapping = {"gym": {"user_id": user_id}}
    return load(
        None,
        overrides={"store": {"data_dir": str(path)}, "modalities": VISIT, "mapping": mapping, **sections},
    )


def test_a_mapping_mended_while_up_runs_is_not_replayed_by(tmp_path: Path) -> None:
    started, mended = settings_in(tmp_path, "Membr"), settings_in(tmp_path)
    with DataDirLock.acquire(tmp_path):
        write_child_settings(started, tmp_path / "run" / "config.toml")
        assert not_in_force(started) == []
        preflight.check_in_force(started)
        assert check_in_force(started).level is Level.OK
        with pytest.raises(AnchorstreamError, match=r"mapping\.gym\.user_id\n") as caught:
            preflight.check_in_force(mended)
        assert caught.value.code == "settings_not_in_force"
        found = check_in_force(mended)
        assert (found.level, "mapping.gym.user_id" in found.detail, "start it again" in found.action) == (
            Level.WARN, True, True
        )  # fmt: skip
    preflight.check_in_force(mended)  # nothing runs now: what starts next reads the file
    assert check_in_force(mended).level is Level.OK


def test_what_does_not_judge_events_holds_no_replay_up(tmp_path: Path) -> None:
    started = settings_in(tmp_path, serve={"port": 0}, kafka={"properties": {"sasl.password": "s3cret"}})
    with DataDirLock.acquire(tmp_path):
        assert not_in_force(started) == []  # it is just starting
        write_child_settings(started, tmp_path / "run" / "config.toml")
        here = settings_in(tmp_path, serve={"port": 9000}, scenarios={"quits": {"query": "Will they quit?"}})
        preflight.check_in_force(here)
        assert "scenarios.quits" in not_in_force(here)
        assert not_in_force(started) == []


def test_a_scenario_added_to_the_file_is_told_from_an_unknown_one() -> None:
    def ask(name: str) -> None:
        raise NotFoundError(f"{name!r} is not one of: churn", code="scenario_unknown")

    with pytest.raises(NotFoundError) as caught:
        each(None, "quits", ask, configured=["quits"])  # type: ignore[arg-type]
    assert "start it again" in caught.value.action
    with pytest.raises(NotFoundError) as caught:
        each(None, "quit", ask, configured=["quits"])  # type: ignore[arg-type]
    assert caught.value.action == ""
