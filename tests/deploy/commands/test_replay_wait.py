"""`replay --wait`: it ends when everybody is queryable, or says what is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy import cli
from deploy.run.attend import LEFT_SECONDS, Behind
from deploy.run.launcher import Launcher
from deploy.run.spawn import Spawn
from deploy.settings.config import load
from stream.lag.left import Left

CONFIG = """
[ingest]
clock = "stream"
[modalities.visits]
topic = "visits"
text = "{page}"
[scenarios.churn]
query = "Will this visitor leave?"
[store]
data_dir = "state"
[serve]
port = 0
[model]
threads = 1
"""
USERS, EVENTS = 24, 20
SECONDS = 300.0


def write(path: Path, first: int) -> None:
    def row(n: int) -> dict[str, object]:
        return {"event_id": f"e{n}", "user_id": f"u{n % USERS}", "ts": 1_700_000_000_000 + n, "page": f"p{n % 7}"}

    path.write_text("".join(json.dumps(row(first + i)) + "\n" for i in range(USERS * EVENTS)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_ends_when_everybody_is_queryable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], spawn: Spawn
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "anchorstream.toml").write_text(CONFIG)

    def replay(name: str, *more: str) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
        """Exit code, result, and lines on standard error."""
        capsys.readouterr()
        ended = cli.run(["replay", name, "--wait", "--json", *more])
        out, err = capsys.readouterr()
        return ended, json.loads(out), [json.loads(line) for line in err.splitlines() if line.startswith("{")]

    write(tmp_path / "a.jsonl", 0)
    write(tmp_path / "b.jsonl", 1_000_000)
    roles = {"ingest": 1, "processor": 1, "serve": 1}
    with Launcher(load(tmp_path / "anchorstream.toml"), roles=roles, spawn=spawn) as up:
        up.wait_ready(SECONDS)
        ended, result, lines = replay("a.jsonl", "--timeout", "3")
        assert ended == 1
        assert lines[-1]["error"] == "not_queryable"
        assert not result["queryable"]["done"]
        up.add_role("worker", 0)
        up.wait_ready(SECONDS)
        ended, result, lines = replay("b.jsonl", "--timeout", str(SECONDS))
        assert ended == 0, lines
        assert result["queryable"]["done"]
        assert result["queryable"]["packs"] == 0
        assert lines[-1]["waiting"]["done"]
        capsys.readouterr()
        assert cli.run(["embedding", "u3", "--scenario", "churn", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["as_of"] >= 1_700_001_000_000


@pytest.mark.parametrize("words", [["--no-wait", "--wait"], ["--dry-run", "--wait"], ["--timeout", "5"]])
def test_options_that_do_not_go_together(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "anchorstream.toml").write_text(CONFIG)
    assert cli.run(["replay", "a.jsonl", *words]) == 2


def test_up_tells_of_a_backlog_and_of_nothing_else() -> None:
    behind, much = Behind(), Left(0, 5000, 900, 0, LEFT_SECONDS + 50, done=False)
    assert behind.line(much) is None
    assert behind.line(much._replace(seconds=0.2)) is None
    assert behind.line(much) is None
    assert behind.line(much) == "behind: 5,000 packs of events to process, 900 users to compute; about 1 min 00 s left"
    assert behind.line(much._replace(packs=0, seconds=None)) == "behind: 900 users to compute"
    assert behind.line(Left(0, 0, 0, 0, 0.0, done=True)) == "the backlog is done"
    assert behind.line(Left(0, 0, 0, 0, 0.0, done=True)) is None
