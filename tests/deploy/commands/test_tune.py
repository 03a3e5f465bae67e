"""`anchorstream tune`: a file of events and a file of labels become a prompt with its scores."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.cli import run
from encoder.model.soft_prompt import read

pytest.importorskip("sklearn")

CONFIG = """
[modalities.order]
topic = "orders"
text = "ordered {what}"
numbers = ["amount"]
window_days = 60
max_events = 40
[scenarios.churn]
query = "Will this customer stop ordering?"
[model]
event_tokens = false
checkpoint = "none"
"""
USERS, DAYS = 120, 60
BEGIN = datetime(2025, 1, 1, tzinfo=UTC)


def loyal(user: int) -> bool:
    return user % 2 == 0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Events, labels and a configuration; the working directory."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "event_id": f"{user}-{day}", "user_id": f"u{user}",
            "ts": (BEGIN + timedelta(days=day, minutes=user)).isoformat(),
            "what": "bread" if loyal(user) else "milk", "amount": round(float(rng.gamma(2, 10)), 2),
        }
        for day in range(DAYS)
        for user in range(USERS)
        if rng.random() < 0.2 or day == 0
    ]  # fmt: skip
    (tmp_path / "mine.toml").write_text(CONFIG)
    (tmp_path / "orders.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    at = (BEGIN + timedelta(days=50)).isoformat()
    lines = ["user_id,ts,label", *(f"u{user},{at},{int(loyal(user))}" for user in range(USERS)), f"nobody,{at},1"]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


WORDS = ["tune", "churn", "-c", "mine.toml", "--history", "orders.jsonl", "--threads", "1"]


def tuned(capsys: pytest.CaptureFixture[str], *more: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert run([*WORDS, "--json", *more]) == code
    out, err = capsys.readouterr()
    return json.loads(out if code == 0 else err)


def test_labels_become_a_prompt(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = tuned(capsys, "--labels", "labels.csv", "--steps", "20", "--out", "churn.safetensors")
    prompt = read(folder / "churn.safetensors")
    assert prompt.tokens.shape == (6, 192)
    assert prompt.prototypes is not None
    assert prompt.prototypes.shape == (2, 128)
    assert (folder / "churn.safetensors").stat().st_size < 16_384
    about = prompt.about
    assert (about.scenario, about.query) == ("churn", "Will this customer stop ordering?")
    assert (about.weights, about.classes, about.layout) == (found["weights"], ["0", "1"], "compiled")
    assert found["scores"]["query_prompt"]["prototypes"]["auc"] > 0.95
    assert found["left_out"] == {"of users without an event": 1}
    assert sum(sum(own.values()) for own in found["used"].values()) == USERS
    assert found["seconds"] > 0
    again = tuned(capsys, "--labels", "labels.csv", "--steps", "20", "--out", "again.safetensors")
    assert again["prompt"] == found["prompt"]


def test_the_table_says_what_was_used(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*WORDS, "--labels", "labels.csv", "--steps", "2"]) == 0
    out, err = capsys.readouterr()
    assert "held out" in out
    assert "query_prompt" in out
    assert "left out: 1 of users without an event" in err
    assert "the model is untrained" in err
    assert (folder / "churn.safetensors").exists()


def test_groups_need_no_labels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = tuned(capsys, "--clusters", "2", "--steps", "20")
    assert found["helps"] is None
    assert found["scores"]["query_prompt"]["margin"] > found["scores"]["query"]["margin"]
    assert found["file"] == "churn.safetensors"


def labels(*rows: str, header: str = "user_id,ts,label") -> str:
    return "\n".join([header, *rows]) + "\n"


AT = "2025-02-20T00:00:00Z"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (labels(f"u1,{AT}", header="user_id,ts"), "labels.csv:2: has no label (it has user_id, ts)"),
        (labels("u1,yesterday,1"), "labels.csv:2: 'yesterday' is neither"),
        (labels(f"u1,{AT},1,2"), "labels.csv:2: 4 fields"),
        (labels(f"nobody,{AT},1"), "1 of users without an event"),
        (labels("u1,2019-01-01,1"), "1 before the user's first event"),
        (labels("u1,2031-01-01,1"), "1 after the history's end"),
        (labels(f"u1,{AT},1", f"u2,{AT},1"), "all 2 labels are '1'"),
        (labels(f"u1,{AT},1", f"u2,{AT},0"), "too few labels"),
    ],
)
def test_labels_that_cannot_be_used(folder: Path, capsys: pytest.CaptureFixture[str], text: str, said: str) -> None:
    (folder / "labels.csv").write_text(text)
    problem = tuned(capsys, "--labels", "labels.csv", code=2)
    assert problem["error"] == "labels_unusable"
    assert said in problem["detail"]
    assert problem["action"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "one of --labels"),
        (["--labels", "labels.csv", "--clusters", "3"], "one of --labels"),
        (["--clusters", "1"], "--clusters 1"),
        (["--clusters", "3", "--as", "other"], "--as and --wait go with --put"),
        (["--clusters", "3", "--put", "--as", "churn"], "scenario of the configuration"),
        (["--clusters", "3", "--put", "--as", "../x"], "no name of a scenario"),
        (["--clusters", "3", "--tokens", "0"], "--tokens 0"),
        (["--clusters", "3", "--data", "completejourney"], "two histories"),
    ],
)
def test_words_that_do_not_go_together(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert said in tuned(capsys, *more, code=2)["detail"]


def test_a_scenario_that_nobody_knows_needs_a_query(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", "loan", *WORDS[2:], "--labels", "labels.csv", "--steps", "2"]
    assert run(words) == 2
    assert "nobody knows what 'loan' asks" in capsys.readouterr().err
    assert run([*words, "--query", "Will this customer borrow?"]) == 0
    assert read(folder / "loan.safetensors").about.query == "Will this customer borrow?"
