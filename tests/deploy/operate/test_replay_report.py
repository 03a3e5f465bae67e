"""What `anchorstream replay` prints."""

from __future__ import annotations

import pytest

from deploy.operate import replay_report
from store.base.settings import ModalitySettings
from stream.replay.preflight import FileVerdict, Preflight
from stream.settings import IngestSettings


def test_of_nothing_there_is_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    """A replay that goes on where all was published showed two empty ones."""
    modalities = {"bill": ModalitySettings(topic="bills")}
    preflight = Preflight(modalities, {}, IngestSettings(), partition_of=lambda _: 0, dead_letters="d")
    preflight.files["a.jsonl"] = FileVerdict("a.jsonl", whole=False)
    replay_report.write_verdicts(preflight)
    assert capsys.readouterr().out == "a.jsonl: no row is left to be judged\n"
