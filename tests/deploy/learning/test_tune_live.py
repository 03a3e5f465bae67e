"""A prompt tuned on what the running system knows is taken up by its worker without a restart, and another after it."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy import cli
from deploy.run.launcher import Launcher
from deploy.run.spawn import Spawn
from deploy.settings.config import load
from encoder.model.soft_prompt import About, SoftPrompt, read, write
from tests.conftest import need_kafka
from tests.deploy.operate.test_onboarding import CONFIG, MEMBERS, RIDES, lines

pytest.importorskip("sklearn")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SECONDS = 200.0
HOUR_MS = 3_600_000

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
def test_a_prompt_is_tuned_put_and_taken_up(
    tmp_path: Path, bootstrap: str, ask: Ask, spawn: Spawn, capsys: pytest.CaptureFixture[str]
) -> None:
    if bootstrap == "local":
        need_kafka()
    extra = "" if bootstrap == "embedded" else '\nbootstrap_servers = "local"'
    (tmp_path / "bikes.toml").write_text(CONFIG.replace("[kafka]", f"[kafka]{extra}"))
    (tmp_path / "rides.jsonl").write_text("\n".join(lines()) + "\n")
    rng = random.Random(0)
    rows = [
        f"{member},{1_600_000_000_000 + ride * HOUR_MS},{rng.randrange(2)}"
        for member in MEMBERS
        for ride in range(RIDES)
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["user_id,ts,label", *rows]) + "\n")
    with Launcher(load(tmp_path / "bikes.toml"), spawn=spawn) as up:
        up.wait_ready(SECONDS)
        ask("replay", "rides.jsonl")
        _until(lambda: ask("lag")["lag_messages"] == 0)
        workers = _pids(tmp_path)
        _live(ask, tmp_path)
        assert _pids(tmp_path) == workers, "nobody was started anew"
        # the same history for pretraining; two days are too few
        assert cli.run(["pretrain", "--from-topic", "--out", "run", "-c", "bikes.toml"]) == 2
        assert f"the history holds {len(MEMBERS) * (RIDES + 2):,} events of 1 days" in capsys.readouterr().err


def _live(ask: Ask, folder: Path) -> None:
    words = ["tune", "commuter", "--labels", "labels.csv", "--steps", "10", "--threads", "1", "--put", "--wait"]
    plain = ask("embedding", "member 3", "--scenario", "commuter")
    first = ask(*words)
    made = first["scenario"]
    assert (made["name"], made["created"], made["users"]) == ("commuter_tuned", True, len(MEMBERS))
    assert made["prompt"] == first["prompt"]
    assert made["query"] == plain_query(ask)
    assert sum(sum(own.values()) for own in first["used"].values()) == len(MEMBERS) * (RIDES - 1), (
        "not before the first event"
    )
    assert read(folder / "state" / "prompts" / f"{first['prompt']}.safetensors").about.scores == first["scores"]
    tuned = ask("embedding", "member 3", "--scenario", "commuter_tuned")
    assert tuned["model"] == made["model"] != plain["model"]
    assert tuned["vector"] != plain["vector"]

    again = ask(*words, "--seed", "1")
    assert again["prompt"] != first["prompt"]
    assert again["scenario"]["created"] is False
    assert again["scenario"]["models"] == {again["scenario"]["model"]: len(MEMBERS)}
    assert again["scenario"]["model"] != made["model"]
    verdict = ask("verify")
    assert (verdict["mismatched"], verdict["missing"], verdict["compared"]) == (0, 0, 3 * len(MEMBERS))

    path = folder / "state" / "prompts" / "foreign.safetensors"
    write(path, SoftPrompt(read(folder / "state" / "prompts" / f"{first['prompt']}.safetensors").tokens, None, FOREIGN))
    refused = ask("scenarios", "put", "foreign", "--query", "Foreign?", "--prompt", "foreign", "--wait", code=1)
    assert refused["error"] == "back_fill_failed"
    assert "was tuned on other weights" in refused["detail"]


FOREIGN = About("foreign", "Foreign?", "another model")


def plain_query(ask: Ask) -> str:
    return next(s["query"] for s in ask("scenarios", "list")["scenarios"] if s["name"] == "commuter")


def _pids(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((folder / "state" / "run").glob("*.ready"))}


def _until(condition: Any) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
