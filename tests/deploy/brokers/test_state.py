"""State made from one broker is never continued under another."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.brokers.state import claim_state
from store.base.errors import StateError
from stream.kafka.client import Connection

ONE = Connection("x:1", embedded=True, identity="embedded:one")
TWO = Connection("x:1", embedded=True, identity="embedded:two")
KAFKA = Connection("x:1", identity="kafka:one")
OTHER_KAFKA = Connection("x:1", identity="kafka:two")


def _write(data_dir: Path, name: str, text: str = "") -> Path:
    path = data_dir / name / "0" / "CURRENT"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_first_and_same_broker_change_nothing(tmp_path: Path) -> None:
    """A fresh directory is claimed; the same broker finds its state again."""
    assert claim_state(tmp_path, KAFKA) is None
    kept = _write(tmp_path, "processor")
    assert claim_state(tmp_path, KAFKA) is None
    assert kept.exists()


def test_new_embedded_broker_starts_empty_and_keeps_the_newest_old_state(tmp_path: Path) -> None:
    """The old state is set aside, replacing what was set aside before."""
    claim_state(tmp_path, ONE)
    _write(tmp_path, "processor", "first")
    _write(tmp_path, "serve", "first")
    assert claim_state(tmp_path, TWO) == tmp_path / "stale"
    assert not (tmp_path / "processor").exists()
    assert not (tmp_path / "serve").exists()
    assert (tmp_path / "stale" / "processor" / "0" / "CURRENT").read_text() == "first"
    _write(tmp_path, "processor", "second")
    assert claim_state(tmp_path, ONE) == tmp_path / "stale"
    assert (tmp_path / "stale" / "processor" / "0" / "CURRENT").read_text() == "second"


def test_empty_folders_are_no_state(tmp_path: Path) -> None:
    """A broker may change as long as nothing was stored."""
    claim_state(tmp_path, KAFKA)
    (tmp_path / "processor" / "0").mkdir(parents=True)
    assert claim_state(tmp_path, OTHER_KAFKA) is None


@pytest.mark.parametrize(("before", "after"), [(KAFKA, OTHER_KAFKA), (ONE, KAFKA), (KAFKA, ONE)])
def test_another_kafka_is_refused_and_nothing_changes(tmp_path: Path, before: Connection, after: Connection) -> None:
    """State of a real Kafka can be continued there, so a person decides; asking again is refused again."""
    claim_state(tmp_path, before)
    kept = _write(tmp_path, "worker")
    for _ in range(2):
        with pytest.raises(StateError, match=after.identity) as caught:
            claim_state(tmp_path, after)
        assert "store.data_dir" in caught.value.action
    assert kept.exists()
    assert claim_state(tmp_path, before) is None


def test_state_of_unknown_origin_is_refused_on_kafka(tmp_path: Path) -> None:
    """Without an identity file nobody knows which offsets the state is about."""
    _write(tmp_path, "processor")
    with pytest.raises(StateError, match="unknown"):
        claim_state(tmp_path, KAFKA)
