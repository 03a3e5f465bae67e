"""Scenarios at run time, through the command line and every role: registered, back-filled, verified, retired."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy import cli
from deploy.run.launcher import Launcher
from deploy.run.spawn import Spawn
from deploy.settings.config import load
from tests.conftest import need_kafka
from tests.deploy.operate.test_onboarding import CONFIG, MEMBERS, lines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
QUERY = "Does this member travel at weekends?"
SECONDS = 200.0

Ask = Callable[..., Any]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """`anchorstream WORD… --json` in this process and in `tmp_path`: what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        ended = cli.run([*words, "--json", "--config", "bikes.toml"])
        out, err = capsys.readouterr()
        assert ended == code, err + out
        return json.loads(out or err)

    return run


@pytest.mark.parametrize("bootstrap", ["embedded", pytest.param("local", marks=pytest.mark.kafka)])
def test_registered_back_filled_changed_and_retired(tmp_path: Path, bootstrap: str, ask: Ask, spawn: Spawn) -> None:
    if bootstrap == "local":
        need_kafka()
    extra = "" if bootstrap == "embedded" else '\nbootstrap_servers = "local"'
    config = (
        CONFIG.replace("[kafka]", f"[kafka]{extra}")
        + '\n[candidates.next]\nseed = 7\ncheckpoint = "none"\nthreads = 1\n'
    )
    (tmp_path / "bikes.toml").write_text(config)
    (tmp_path / "rides.jsonl").write_text("\n".join(lines()) + "\n")
    with Launcher(load(tmp_path / "bikes.toml"), spawn=spawn) as up:
        up.wait_ready(SECONDS)
        _live(ask, tmp_path / "state")


def _live(ask: Ask, data_dir: Path) -> None:
    def listed() -> dict[str, Any]:
        return {s["name"]: s for s in ask("scenarios", "list")["scenarios"]}

    def put(query: str) -> dict[str, Any]:
        found: dict[str, Any] = ask("scenarios", "put", "travel", "--query", query, "--wait")
        return found

    def verified(scenarios: int) -> None:
        verdict = ask("verify")
        expected = {"compared": scenarios * len(MEMBERS), "mismatched": 0, "missing": 0, "extra": 0}
        assert {key: verdict[key] for key in expected} == expected

    ask("replay", "rides.jsonl")
    _until(lambda: ask("lag")["lag_messages"] == 0)
    configured = {"commuter", "leaving", "commuter@next", "leaving@next"}
    assert listed().keys() == configured

    made = put(QUERY)
    assert (made["created"], made["registered"], made["users"]) == (True, True, len(MEMBERS))
    assert (made["back_fill"]["done"], made["back_fill"]["total"]) == (len(MEMBERS), len(MEMBERS))
    _until(lambda: listed()["travel@next"]["users"] == len(MEMBERS))
    (result,) = ask("neighbors", "member 3", "--scenario", "travel", "--k", "5")["results"]
    assert len(result["neighbors"]) == 5
    one = [ask("embedding", "member 3", "--scenario", name) for name in ("travel", "travel@next")]
    assert one[0]["model"] != one[1]["model"]
    assert {r["scenario"] for r in ask("embedding", "member 3")} == {"commuter", "leaving", "travel"}
    topics = {row["topic"] for row in ask("lag")["partitions"]}
    assert {f"anchorstream.embeddings.{name}" for name in ("travel", "travel-next", "commuter-next")} <= topics
    verified(6)

    assert put(QUERY)["created"] is False
    changed = put("Does this member ride in the rain?")
    assert changed["created"] is False
    assert changed["models"] == {changed["model"]: len(MEMBERS)}
    assert changed["model"] != made["model"]
    _until(lambda: listed()["travel@next"]["back_fill"]["complete"])
    verified(6)

    serve = json.loads((data_dir / "run" / "serve.json").read_text())["pid"]
    os.kill(serve, signal.SIGKILL)
    _until(lambda: _pid(data_dir) not in (None, serve) and listed().get("travel", {}).get("users") == len(MEMBERS))
    assert ask("embedding", "member 3", "--scenario", "travel")["model"] == changed["model"]

    assert ask("scenarios", "retire", "travel") == {"retired": "travel"}
    assert listed().keys() == configured
    gone = ask("embedding", "member 3", "--scenario", "travel", code=1)
    assert gone["error"] == "scenario_unknown"
    refused = ask("scenarios", "retire", "commuter", code=1)
    assert refused["error"] == "scenario_configured"
    verified(4)

    again = put(QUERY)
    assert (again["created"], again["users"], again["model"]) == (True, len(MEMBERS), made["model"])
    _until(lambda: listed()["travel@next"]["back_fill"]["complete"])
    verified(6)


def _pid(data_dir: Path) -> int | None:
    """Of serve, once it answers."""
    try:
        return int(json.loads((data_dir / "run" / "serve-0.ready").read_text()))
    except FileNotFoundError:
        return None


def _until(condition: Any) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
