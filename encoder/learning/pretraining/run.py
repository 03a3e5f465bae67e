"""A run from its first step, or from where it was stopped, to a checkpoint; with a line of metrics a step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from encoder.learning.pretraining.trainer import Step, Trainer
from encoder.model import checkpoint
from encoder.model.checkpoint import Card
from store.base.errors import WeightsError

METRICS = "metrics.jsonl"
SAVE_EVERY = 50


def train(
    trainer: Trainer,
    folder: Path,
    *,
    save_every: int = SAVE_EVERY,
    on_step: Callable[[Step], object] = lambda step: None,
) -> None:
    """Run the steps that are left. `folder` holds the state and the metrics; a killed run goes on from it.

    Raises:
        WeightsError: the loss is no number any more.
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trainer.resume(folder)
    _forget_after(folder / METRICS, trainer.step)
    with (folder / METRICS).open("a", encoding="utf-8") as lines:
        while trainer.step < trainer.settings.steps:
            step = trainer.run_step()
            if not math.isfinite(step.loss):
                raise WeightsError(
                    f"the loss is {step.loss} at step {step.number}",
                    action="lower --learning-rate, and begin anew in another folder",
                    code="training_diverged",
                )
            lines.write(json.dumps(asdict(step)) + "\n")
            if trainer.step % save_every == 0 or trainer.step == trainer.settings.steps:
                lines.flush()
                trainer.save(folder)
            on_step(step)


def _forget_after(path: Path, step: int) -> None:
    """Lines of steps that will be run again."""
    if path.exists():
        kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _number(line) < step]
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _number(line: str) -> float:
    try:
        return float(json.loads(line)["number"])
    except (ValueError, KeyError, TypeError):  # cut off in the middle
        return math.inf


def save_checkpoint(
    trainer: Trainer, folder: Path, *, name: str, weights_id: str, seeded: bool, commit: str, metrics: dict[str, Any]
) -> Card:
    """The averaged weights as a checkpoint. The trainer's own stay as they are. Raises OSError."""
    with trainer.using_average() as model:
        return checkpoint.save(
            model, folder, name=name, weights_id=weights_id, trained=True, seeded=seeded, commit=commit,
            config=asdict(trainer.settings), data=trainer.manifest.about, metrics=metrics, half=True,
        )  # fmt: skip
