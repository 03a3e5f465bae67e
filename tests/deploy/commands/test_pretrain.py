"""`anchorstream pretrain`: a file and its configuration are enough; the same command again goes on."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from deploy.cli import run
from encoder.model.checkpoint import read_card

CONFIG = """
[modalities.order]
topic = "orders"
text = "ordered {what}"
numbers = ["amount"]
window_days = 60
max_events = 40
[scenarios.churn]
query = "Will this customer stop ordering?"
"""
USERS, DAYS = 25, 140


@pytest.fixture
def history(tmp_path: Path) -> Path:
    rng, begin = np.random.default_rng(0), datetime(2025, 1, 1, tzinfo=UTC)
    rows = [
        {
            "event_id": f"{user}-{day}",
            "user_id": f"u{user}",
            "ts": (begin + timedelta(days=day, minutes=user)).isoformat(),
            "what": ("bread", "milk")[int(rng.integers(2))],
            "amount": round(float(rng.gamma(2, 10)), 2),
        }
        for day in range(DAYS)
        for user in range(USERS)
        if rng.random() < 0.15 + 0.01 * user
    ]
    (tmp_path / "mine.toml").write_text(CONFIG)
    path = tmp_path / "orders.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command(history: Path, *more: str) -> list[str]:
    config = str(history.parent / "mine.toml")
    out = str(history.parent / "run")
    return ["pretrain", str(history), "-c", config, "--out", out, "--samples", "80", "--threads", "1", *more]


def test_a_file_becomes_a_checkpoint(history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = history.parent / "summary.json"
    assert run(command(history, "--steps", "3", "--name", "mine", "--json", str(summary))) == 0
    told = json.loads(summary.read_text())
    assert (told["steps"], told["samples"]) == (3, 80)
    assert 0 <= told["validation"]["mean"] <= 1
    card = read_card(history.parent / "run" / "checkpoint")
    assert (card.name, card.id, card.trained) == ("mine", told["id"], True)
    assert card.modalities == {"order": ["amount"]}
    assert card.data["data"] == "orders.jsonl"
    shards = [path.stat().st_mtime_ns for path in sorted((history.parent / "run" / "user_u").rglob("*.safetensors"))]

    capsys.readouterr()
    assert run(command(history, "--steps", "3", "--name", "mine", "--json", str(summary))) == 0
    assert json.loads(summary.read_text())["id"] == told["id"], "nothing was left to do"
    again = [path.stat().st_mtime_ns for path in sorted((history.parent / "run" / "user_u").rglob("*.safetensors"))]
    assert again == shards

    assert run(command(history, "--steps", "4")) != 0
    assert "begun with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pretrain", "nothing.jsonl", "-c", "mine.toml", "--out", "run"], "nothing.jsonl is not there"),
        (["pretrain", "orders.jsonl", "--out", "run"], "files need a configuration"),
        (["pretrain", "-c", "mine.toml", "--out", "run"], "--config is of files"),
    ],
)
def test_what_cannot_be_is_said_at_once(
    history: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(history.parent)
    assert run(words) != 0
    assert said in capsys.readouterr().err
    assert not (history.parent / "run").exists()


def test_too_few_days_are_said(history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = history.read_text().splitlines(keepends=True)
    history.write_text("".join(lines[: len(lines) // 4]))
    assert run(command(history)) != 0
    assert "training needs 84 days" in capsys.readouterr().err
