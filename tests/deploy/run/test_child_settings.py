"""The settings a role gets are those of its launcher, and no secret lies on disk."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from deploy.run.child_settings import write_child_settings
from deploy.settings.config import Settings, load
from store.base.query_text import text_fault


def as_child(path: Path, changes: dict[str, str | None], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in changes.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    return load(path)


def test_overrides_reach_the_child_and_the_environment_does_not_undo_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = {
        "store": {"data_dir": str(tmp_path)},
        "serve": {"port": 0},
        "modalities": {"a": {"topic": "a", "window_days": 3000}},
    }
    settings = load(None, overrides=overrides)
    monkeypatch.setenv("ANCHORSTREAM_SERVE__PORT", "9999")
    monkeypatch.setenv("anchorstream_kafka__partitions", "7")
    monkeypatch.setenv("ANCHORSTREAM_LOG_LEVEL", "DEBUG")
    changes = write_child_settings(settings, tmp_path / "run" / "config.toml")
    assert as_child(tmp_path / "run" / "config.toml", changes, monkeypatch) == settings
    assert os.environ["ANCHORSTREAM_LOG_LEVEL"] == "DEBUG"


def test_secrets_travel_in_the_environment_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        None,
        overrides={
            "kafka": {
                "bootstrap_servers": "k:9092",
                "properties": {"sasl.password": "pass-w0rd", "sasl.username": "me", "socket.timeout.ms": 5},
            },
            "serve": {"read_token": "read-t0ken", "admin_token": "admin-t0ken"},
        },
    )
    path = tmp_path / "config.toml"
    changes = write_child_settings(settings, path)
    text = path.read_text()
    assert not any(secret in text for secret in ("pass-w0rd", "read-t0ken", "admin-t0ken"))
    assert "sasl.username" in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    child = as_child(path, changes, monkeypatch)
    assert child == settings
    assert child.serve.admin_token is not None
    assert child.serve.admin_token.get_secret_value() == "admin-t0ken"


names = st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
queries = texts.filter(lambda text: not text_fault(text))


@hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(names, queries, min_size=1, max_size=3),
    st.floats(0.001, 3660),
    st.dictionaries(st.sampled_from(["client.id", "a.b", 'odd "key"']), texts | st.integers() | st.booleans()),
)
def test_any_settings_survive_the_way(
    tmp_path: Path, scenarios: dict[str, str], days: float, properties: dict[str, str | int | bool]
) -> None:
    modality = {"topic": "t", "window_days": days, "numbers": ["a", "b"], "text": "{x} ✓"}
    settings = load(
        None,
        overrides={
            "modalities": {"m": modality},
            "scenarios": {name: {"query": query} for name, query in scenarios.items()},
            "kafka": {"properties": properties},
        },
    )
    write_child_settings(settings, tmp_path / "config.toml")
    assert load(tmp_path / "config.toml") == settings
