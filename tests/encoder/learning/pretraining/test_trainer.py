"""A run learns, is the same whoever repeats it, and a killed one goes on to the same weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from encoder.forward.user_encoder import UserEncoder
from encoder.learning.pretraining.run import METRICS, save_checkpoint, train
from encoder.learning.pretraining.settings import PretrainSettings
from encoder.learning.pretraining.trainer import Trainer
from encoder.learning.pretraining.validation import zero_shot
from encoder.model import presets
from encoder.model.settings import ModelSettings
from store.base.settings import ScenarioSettings
from tests.support import small_pretraining as small
from tests.support.small_data_set import MODALITIES
from tests.support.windows import DIM

SETTINGS = PretrainSettings(
    steps=12, batch=24, aspects=3, warmup=4, response_rows=4, event_users=6, event_share=0.5, average=0.5
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user_u")
    small.write(folder)
    return folder


def steps_of(folder: Path) -> list[float]:
    lines = (folder / METRICS).read_text().splitlines(keepends=True)
    return [json.loads(line)["loss"] for line in lines if line.endswith("\n")]


def test_a_run_repeats_itself(data: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train(small.trainer(data, SETTINGS), tmp_path / name)
    assert steps_of(tmp_path / "one") == steps_of(tmp_path / "two")
    assert len(steps_of(tmp_path / "one")) == SETTINGS.steps


@pytest.mark.parametrize("layout", ["compiled", "chunked"])
def test_a_stopped_run_ends_in_the_same_weights(data: Path, tmp_path: Path, layout: str) -> None:
    settings = replace(SETTINGS, layout=layout, steps=6)
    whole = small.trainer(data, settings)
    train(whole, tmp_path / "whole")
    stopped = small.trainer(data, settings)
    for _ in range(3):
        stopped.run_step()
    (tmp_path / "parts").mkdir()
    stopped.save(tmp_path / "parts")
    stopped.run_step()  # lost with the process
    again = small.trainer(data, settings)
    train(again, tmp_path / "parts")
    assert steps_of(tmp_path / "parts") == steps_of(tmp_path / "whole")[3:]
    for name, tensor in whole.averaged().items():
        assert torch.equal(tensor, again.averaged()[name]), name


@pytest.mark.crash
def test_a_killed_run_goes_on_to_the_same_loss(data: Path, tmp_path: Path) -> None:
    train(small.trainer(data, SETTINGS), tmp_path / "whole")
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.support.small_pretraining", str(data), str(folder)]
    for least in (1, 5, 9):  # each time some steps further
        child = subprocess.Popen(command, env={**os.environ, "STEPS": str(SETTINGS.steps)})
        deadline = time.monotonic() + 300
        while not (folder / METRICS).exists() or len(steps_of(folder)) < least:
            assert time.monotonic() < deadline
            if child.poll() is not None:
                break
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert subprocess.run(command, env={**os.environ, "STEPS": str(SETTINGS.steps)}, check=True).returncode == 0
    assert steps_of(folder) == steps_of(tmp_path / "whole")


def test_it_learns_what_is_there(data: Path, tmp_path: Path) -> None:
    """Who buys tea goes on buying tea: told on users' other moments, without a label of theirs."""
    settings = replace(
        SETTINGS, steps=150, batch=48, dropout=0.1, token_dropout=0.0, mean_dropout=0.0, noise=0.3, average=0.9
    )
    trainer = small.trainer(data, settings)
    manifest = trainer.manifest
    before = zero_shot(trainer.model, data, manifest, layout=settings.layout)
    train(trainer, tmp_path / "run")
    card = save_checkpoint(
        trainer, tmp_path / "checkpoint", name="small", weights_id=presets.load(ModelSettings()).weights_id,
        seeded=True, commit="abc", metrics={"auc": 0.5},
    )  # fmt: skip
    assert card.trained
    loaded = UserEncoder(
        ModelSettings(device="cpu", checkpoint=tmp_path / "checkpoint"), MODALITIES, {}, DIM, small.Vectors()
    )
    assert loaded.trained
    after = zero_shot(loaded.model, data, manifest, layout=settings.layout)
    assert after["tea"] > max(0.8, before["tea"] + 0.05)
    losses = steps_of(tmp_path / "run")
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


def test_names_have_to_do_where_residuals_are_not_used(data: Path) -> None:
    trainer = small.trainer(data, replace(SETTINGS, residual_share=0.0, steps=3))
    for _ in range(3):
        trainer.run_step()
    residuals = trainer.model.adapters.residuals("bill")
    assert not residuals.summary.weight.any(), "no step used them, and decay leaves zeros alone"
    assert trainer.model.adapters.summary.gate.weight.grad is not None


def test_the_queries_of_a_checkpoint_are_scenarios(data: Path, tmp_path: Path) -> None:
    """A run of the trainer and the product's encoder compute the same vector from the same rows."""
    trainer = small.trainer(data, SETTINGS)
    windows, shard = small.first_windows(data, 5)
    save_checkpoint(
        trainer, tmp_path, name="small", weights_id=presets.load(ModelSettings()).weights_id, seeded=True, commit="",
        metrics={},
    )  # fmt: skip
    for layout in ("compiled", "chunked"):
        encoder = UserEncoder(
            ModelSettings(device="cpu", checkpoint=tmp_path, layout=layout), MODALITIES,  # type: ignore[arg-type]
            {"q": ScenarioSettings(query="Any tea?")}, DIM, small.Vectors(),
        )  # fmt: skip
        wanted = encoder.encode_from_scratch(windows, ["q"])[:, 0]
        found = small.embed(encoder.model, shard, 5, "Any tea?", layout)
        assert np.abs(found - wanted).max() < 5e-3, "means are kept in half precision"


def test_a_loss_that_is_no_number_is_said(data: Path, tmp_path: Path) -> None:
    from store.base.errors import WeightsError

    trainer: Trainer = small.trainer(data, SETTINGS)
    with torch.no_grad():
        trainer.model.user_emb.fill_(float("nan"))
    with pytest.raises(WeightsError, match="nan at step 0"):
        train(trainer, tmp_path)
    assert not (tmp_path / "state.pt").exists()
