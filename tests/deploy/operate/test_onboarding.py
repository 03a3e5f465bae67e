"""Another data set takes a TOML file and a JSON Lines file, and no code: all of this goes through the command line."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stream.account.report import NOWHERE
from tests.support.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

CONFIG = """
[kafka]
partitions = 2

[ingest]
clock = "stream"

[modalities.ride]
topic = "bikes.ride"
text = "rode from {start} to {end}"
numbers = ["minutes"]
window_days = 30
max_events = 20

[modalities.member]
kind = "tabular"
topic = "bikes.member"
window_days = 400

[scenarios.commuter]
query = "Does this member ride to work?"

[scenarios.leaving]
query = "Will this member cancel next month?"

[model]
threads = 1

[store]
data_dir = "state"

[serve]
port = 0
"""
PLACES = ("Harbour", "Station", "Park", "University", "Mill")
MEMBERS = [f"member {n}" for n in range(24)]
RIDES = 30
"""Per member: more than the window holds."""


def lines() -> list[str]:
    """Events of 24 members, and three lines that are none."""
    rng = random.Random(3)
    events: list[dict[str, Any]] = []
    for n, member in enumerate(MEMBERS):
        events.append(
            {
                "user_id": member,
                "ts": 1_600_000_000_000 + n,
                "modality": "member",
                "plan": rng.choice("AB"),
                "age": 20 + n,
            }
        )
        events += [
            {
                "event_id": f"{n}-{ride}",
                "user_id": member,
                "ts": 1_600_000_000_000 + ride * 3_600_000 + n,
                "modality": "ride",
                "start": rng.choice(PLACES),
                "end": rng.choice(PLACES),
                "minutes": rng.randrange(3, 60),
            }
            for ride in range(RIDES)
        ]
    events.sort(key=lambda event: event["ts"])
    out = [json.dumps(event) for event in events]
    out.insert(50, '{"user_id": "member 1", "ts": ')
    out.insert(90, json.dumps({"user_id": "member 1", "ts": 1_600_000_000_000, "plan": "C"}))  # of which modality?
    out.insert(130, json.dumps({"user_id": "member 1", "ts": "noon", "modality": "ride"}))
    return out


def command(*words: str, cwd: Path) -> list[str]:
    return [sys.executable, "-m", "deploy.cli", *words, "--config", str(cwd / "bikes.toml")]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}


def ask(*words: str, cwd: Path, code: int = 0) -> Any:
    done = subprocess.run(
        command(*words, "--json", cwd=cwd), cwd=cwd, capture_output=True, text=True, timeout=120, env=environment()
    )
    assert done.returncode == code, done.stderr + done.stdout
    return json.loads(done.stdout or done.stderr)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bikes.toml").write_text(CONFIG)
    (tmp_path / "rides.jsonl").write_text("\n".join(lines()) + "\n")
    return tmp_path


@pytest.fixture
def system(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with running(folder) as process:
        yield process


@contextmanager
def running(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`anchorstream up`."""
    log = (folder / "up.log").open("wb")
    out = (folder / "up.json").open("wb")
    process = subprocess.Popen(
        command("up", "--json", cwd=folder), cwd=folder, stdout=out, stderr=log, env=environment()
    )
    try:
        deadline = time.monotonic() + 180
        while b"ready: http" not in (folder / "up.log").read_bytes():
            assert process.poll() is None, (folder / "up.log").read_text()
            assert time.monotonic() < deadline, (folder / "up.log").read_text()
            time.sleep(0.2)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
        log.close()
        out.close()


def wait_until_all_arrived(folder: Path) -> None:
    deadline = time.monotonic() + 120
    while (report := ask("lag", cwd=folder))["lag_messages"]:
        assert time.monotonic() < deadline, report["groups"]
        time.sleep(0.5)


def test_a_toml_and_a_file_are_enough(folder: Path, system: subprocess.Popen[bytes]) -> None:
    started = json.loads((folder / "up.json").read_text())
    assert started["data_dir"] == str(folder / "state")
    assert sorted(started["pids"]) == ["ingest-0", "processor-0", "serve-0", "worker-0"]
    sent = ask("replay", "rides.jsonl", cwd=folder)
    good = len(MEMBERS) * (RIDES + 1)
    assert (sent["published"], sent["unsent"]) == (good + 3, 0)
    wait_until_all_arrived(folder)

    letters = ask("dead-letters", "list", cwd=folder)
    assert letters["counts"] == {"invalid_json": 1, "missing_modality": 1, "invalid_ts": 1}

    account = accounted(folder)
    assert account["refused"] == letters["counts"]
    assert account["totals"]["published"] == good + 3
    assert account["users"] == len(MEMBERS)
    with urllib.request.urlopen(f"{started['url']}/v1/account") as answer:
        assert json.load(answer)["totals"] == account["totals"]
    # D5: nothing looks green
    assert ask("lag", cwd=folder)["refused"] == 2, "by ingest"
    wait_until(lambda: b"refused: 3 (see `anchorstream account`)" in (folder / "up.log").read_bytes(), "up tells it")

    found = ask("neighbors", "member 3", "--scenario", "commuter", "--k", "5", cwd=folder)
    near = found["results"][0]["neighbors"]
    assert len(near) == 5
    assert {one["user_id"] for one in near} < set(MEMBERS) - {"member 3"}
    assert [one["score"] for one in near] == sorted((one["score"] for one in near), reverse=True)
    record = ask("embedding", "member 3", "--scenario", "leaving", cwd=folder)
    assert record["events"] == {"member": 2, "ride": 20}
    assert len(record["vector"]) == 128
    assert not record["stale"]
    inside = ask("buffer", "inspect", "member 3", cwd=folder)
    assert inside["modalities"]["ride"]["rows"] == 20
    unknown = ask("embedding", "nobody", "--scenario", "leaving", cwd=folder, code=1)
    assert unknown["error"]

    names = {s["name"]: s["users"] for s in ask("scenarios", "list", cwd=folder)["scenarios"]}
    assert names == {"commuter": len(MEMBERS), "leaving": len(MEMBERS)}

    verdict = ask("verify", cwd=folder)
    expected = {"users": len(MEMBERS), "compared": 2 * len(MEMBERS), "mismatched": 0, "missing": 0, "extra": 0}
    assert {key: verdict[key] for key in expected} == expected
    assert verdict["source"] == started["url"]

    refused = subprocess.run(command("up", cwd=folder), cwd=folder, capture_output=True, text=True, env=environment())
    assert refused.returncode == 1
    assert "data_dir_locked" in refused.stderr

    system.send_signal(signal.SIGINT)
    assert system.wait(40) == 0
    verdict = ask("verify", cwd=folder)
    assert {key: verdict[key] for key in expected} == expected
    assert "snapshot" in verdict["source"]


def accounted(folder: Path) -> Any:
    """What became of everything, once processors have told; each event that was sent, once."""
    account = ask("account", "--wait", "30", cwd=folder)
    good, total = len(MEMBERS) * (RIDES + 1), account["totals"]
    assert (account["adds_up"], account["settled"]) == (True, True)
    # an embedded broker ends with its dead letters, and that of no topic is nowhere else
    assert sum(topic["published"] for topic in account["topics"] if topic["topic"] != NOWHERE) == good + 2
    assert sum(total[name] for name in ("applied", "expired", "evicted", "remembered")) == good
    return account


def acknowledged(resume: Path) -> int:
    return sum(of["rows"] for of in json.loads(resume.read_text())["files"]) if resume.exists() else 0


def test_up_stopped_and_started_in_the_middle_of_a_replay(folder: Path) -> None:
    """D1: the embedded broker has what it was given before, and the replay goes on where it was."""
    good = len(MEMBERS) * (RIDES + 1)
    replay = ("replay", "rides.jsonl", "--resume", "at.json")
    at = folder / "at.json"
    for ending in (signal.SIGINT, signal.SIGKILL):
        with running(folder) as up:
            process = subprocess.Popen(
                command(*replay, "--rate", "40", cwd=folder), cwd=folder, text=True, env=environment(),
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )  # fmt: skip
            before = acknowledged(at)
            assert process.stderr is not None
            # a line every five seconds: something is sent, far from all
            assert any(re.search(r"[1-9][0-9]* events,", line) for line in process.stderr)
            process.send_signal(signal.SIGINT)
            process.stderr.read()
            assert process.wait(60) == 130
            assert before < acknowledged(at) < good
            up.send_signal(ending)
            up.wait(40)
    with running(folder):
        assert b"read anew" in (folder / "up.log").read_bytes()
        sent = ask(*replay, cwd=folder)
        assert sent["skipped"] > 0
        assert sent["skipped"] + sent["published"] == good + 3
        wait_until_all_arrived(folder)
        accounted(folder)
        names = {s["name"]: s["users"] for s in ask("scenarios", "list", cwd=folder)["scenarios"]}
        assert names == {"commuter": len(MEMBERS), "leaving": len(MEMBERS)}
        verdict = ask("verify", cwd=folder)
        assert (verdict["users"], verdict["mismatched"], verdict["missing"], verdict["extra"]) == (24, 0, 0, 0)
        record = ask("embedding", "member 3", "--scenario", "leaving", cwd=folder)
        assert record["events"] == {"member": 2, "ride": 20}
