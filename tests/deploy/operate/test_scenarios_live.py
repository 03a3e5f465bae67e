"""Scenarios at run time, through the command line and every role: registered, back-filled, verified, retired."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.operate.test_onboarding import (
    CONFIG,
    MEMBERS,
    ask,
    command,
    environment,
    lines,
    wait_until_all_arrived,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]
QUERY = "Does this member travel at weekends?"


def verified(cwd: Path, scenarios: int) -> None:
    verdict = ask("verify", cwd=cwd)
    expected = {"compared": scenarios * len(MEMBERS), "mismatched": 0, "missing": 0, "extra": 0}
    assert {key: verdict[key] for key in expected} == expected


def listed(cwd: Path) -> dict[str, Any]:
    return {s["name"]: s for s in ask("scenarios", "list", cwd=cwd)["scenarios"]}


def put(cwd: Path, query: str, name: str = "travel") -> dict[str, Any]:
    found: dict[str, Any] = ask("scenarios", "put", name, "--query", query, "--wait", cwd=cwd)
    return found


@pytest.mark.parametrize("bootstrap", ["embedded", pytest.param("local", marks=pytest.mark.kafka)])
def test_registered_back_filled_changed_and_retired(tmp_path: Path, bootstrap: str) -> None:
    cwd = tmp_path
    extra = "" if bootstrap == "embedded" else '\nbootstrap_servers = "local"'
    config = CONFIG.replace("[kafka]", f"[kafka]{extra}") + "\n[candidates.next]\nseed = 7\nthreads = 1\n"
    (cwd / "bikes.toml").write_text(config)
    (cwd / "rides.jsonl").write_text("\n".join(lines()) + "\n")
    with (cwd / "up.log").open("wb") as log, (cwd / "up.json").open("wb") as out:
        up = subprocess.Popen(command("up", "--json", cwd=cwd), cwd=cwd, stdout=out, stderr=log, env=environment())
        try:
            _live(cwd, up)
        finally:
            up.send_signal(signal.SIGINT)
            up.wait(60)


def _live(cwd: Path, up: subprocess.Popen[bytes]) -> None:
    _until(lambda: b"ready: http" in (cwd / "up.log").read_bytes() or up.poll() is not None, 180)
    ask("replay", "rides.jsonl", cwd=cwd)
    wait_until_all_arrived(cwd)
    configured = {"commuter", "leaving", "commuter@next", "leaving@next"}
    assert listed(cwd).keys() == configured

    made = put(cwd, QUERY)
    assert (made["created"], made["registered"], made["users"]) == (True, True, len(MEMBERS))
    assert (made["back_fill"]["done"], made["back_fill"]["total"]) == (len(MEMBERS), len(MEMBERS))
    _until(lambda: listed(cwd)["travel@next"]["users"] == len(MEMBERS))
    (result,) = ask("neighbors", "member 3", "--scenario", "travel", "--k", "5", cwd=cwd)["results"]
    assert len(result["neighbors"]) == 5
    one = [ask("embedding", "member 3", "--scenario", name, cwd=cwd) for name in ("travel", "travel@next")]
    assert one[0]["model"] != one[1]["model"]
    assert {r["scenario"] for r in ask("embedding", "member 3", cwd=cwd)} == {"commuter", "leaving", "travel"}
    topics = {row["topic"] for row in ask("lag", cwd=cwd)["partitions"]}
    assert {f"anchorstream.embeddings.{name}" for name in ("travel", "travel-next", "commuter-next")} <= topics
    verified(cwd, 6)

    assert put(cwd, QUERY)["created"] is False
    changed = put(cwd, "Does this member ride in the rain?")
    assert changed["created"] is False
    assert changed["models"] == {changed["model"]: len(MEMBERS)}
    assert changed["model"] != made["model"]
    _until(lambda: listed(cwd)["travel@next"]["back_fill"]["complete"])
    verified(cwd, 6)

    os.kill(json.loads((cwd / "state" / "run" / "serve.json").read_text())["pid"], signal.SIGKILL)
    _until(lambda: _answers(cwd) and listed(cwd).get("travel", {}).get("users") == len(MEMBERS))
    assert ask("embedding", "member 3", "--scenario", "travel", cwd=cwd)["model"] == changed["model"]

    assert ask("scenarios", "retire", "travel", cwd=cwd) == {"retired": "travel"}
    assert listed(cwd).keys() == configured
    gone = ask("embedding", "member 3", "--scenario", "travel", cwd=cwd, code=1)
    assert gone["error"] == "scenario_unknown"
    refused = ask("scenarios", "retire", "commuter", cwd=cwd, code=1)
    assert refused["error"] == "scenario_configured"
    verified(cwd, 4)

    again = put(cwd, QUERY)
    assert (again["created"], again["users"], again["model"]) == (True, len(MEMBERS), made["model"])
    _until(lambda: listed(cwd)["travel@next"]["back_fill"]["complete"])
    verified(cwd, 6)


def _answers(cwd: Path) -> bool:
    done = subprocess.run(
        command("scenarios", "list", "--json", cwd=cwd), cwd=cwd, capture_output=True, timeout=60, env=environment()
    )
    return done.returncode == 0


def _until(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
