"""Pictures of evaluations and runs: whole SVG files, equal for equal figures."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from deploy.learning import plots
from encoder.learning.evaluation.table import Method

pytest.importorskip("matplotlib")


def _texts(path: Path) -> str:
    ElementTree.parse(path)
    return path.read_text(encoding="utf-8")


def test_what_is_varied_is_drawn_with_a_line_a_method(tmp_path: Path) -> None:
    found = {
        name: {age: Method(1, auc={"a": best - int(age) / 100}) for age in ("0", "1", "7", "28")}
        for name, best in (("query", 0.83), ("lightgbm", 0.82))
    }
    for name in ("one.svg", "other.svg"):
        plots.series(tmp_path / name, "freshness", found)
    one = _texts(tmp_path / "one.svg")
    assert one == _texts(tmp_path / "other.svg")
    for said in ("query", "lightgbm", "age of the embedding in days"):
        assert f"<!-- {said} -->" in one


@pytest.mark.parametrize("steps", [1, 7, 60])
def test_losses_of_a_run_however_short(tmp_path: Path, steps: int) -> None:
    lines = [{"number": n, "loss": 2.0 / (n + 1), "parts": {"text": 1.0} if n % 2 else {}} for n in range(steps)]
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    plots.losses(tmp_path / "loss.svg", metrics)
    assert "<!-- loss -->" in _texts(tmp_path / "loss.svg")
