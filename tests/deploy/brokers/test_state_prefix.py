"""State of one `kafka.topic_prefix` under another: its offsets mean nothing there, its data is not what is asked."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.brokers.state import STATE_FOLDERS
from deploy.brokers.state_prefix import PREFIX_FILE, check_prefix, claim_prefix
from deploy.checks.state import check_state
from deploy.operate.served import from_snapshot
from deploy.operate.verify import open_views
from deploy.settings.config import Settings, load
from store.base.errors import StateError


def settings_of(folder: Path, prefix: str) -> Settings:
    return load(None, overrides={"store": {"data_dir": str(folder)}, "kafka": {"topic_prefix": prefix}})


@pytest.mark.parametrize("role", STATE_FOLDERS)
def test_another_prefix_is_refused_and_the_same_goes_on(tmp_path: Path, role: str) -> None:
    folder = tmp_path / role / "0"
    check_prefix(tmp_path, "one")
    claim_prefix(folder, "one")
    claim_prefix(folder, "one")
    check_prefix(tmp_path, "one")
    for refused in (lambda: claim_prefix(folder, "two"), lambda: check_prefix(tmp_path, "two")):
        with pytest.raises(StateError, match="'one', this configuration has 'two'") as caught:
            refused()
        assert caught.value.code == "other_topic_prefix"
    assert (folder / PREFIX_FILE).read_text() == "one\n"


def test_state_of_before_belongs_to_who_claims_it_first(tmp_path: Path) -> None:
    (tmp_path / "processor" / "0" / "3").mkdir(parents=True)
    check_prefix(tmp_path, "one")
    claim_prefix(tmp_path / "processor" / "0", "one")
    with pytest.raises(StateError):
        check_prefix(tmp_path, "two")


def test_who_only_reads_is_not_given_what_is_another_systems(tmp_path: Path) -> None:
    """`verify`, `export`, `buffer inspect` and doctor, where no service runs."""
    claim_prefix(tmp_path / "serve" / "0", "one")
    other = settings_of(tmp_path, "two")
    with pytest.raises(StateError, match="topic_prefix"):
        from_snapshot(other, ["churn"])
    with pytest.raises(StateError, match="topic_prefix"), ExitStack() as stack:
        open_views(stack, tmp_path, {}, "two")
    with pytest.raises(StateError, match="topic_prefix"):
        check_state(other)
    check_state(settings_of(tmp_path, "one"))
