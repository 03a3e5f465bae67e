"""`anchorstream pretrain`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from deploy.learning.history_source import HistorySource
    from deploy.settings.config import Settings
    from encoder.learning.pretraining.settings import PretrainSettings
    from encoder.learning.pretraining.trainer import Trainer
    from encoder.learning.user_u.shards import Manifest

    Show = Callable[[float, str], object]

_LOSS_PLOT = "loss.svg"
_PLAIN_LINE_SECONDS = 15.0
_SETTINGS, _USER_U, _CHECKPOINT = "settings.json", "user_u", "checkpoint"
_DATA_SHARE = 0.25
"""Of the bar: making the training data."""


def pretrain(
    *files: Annotated[Path, Parameter(help="A history to learn from, as `replay` takes it; none: --data.")],
    out: Annotated[Path, Parameter(help="Folder of the run: training data, state, metrics, checkpoint.")],
    data: Annotated[
        Literal["completejourney"], Parameter(help="Data set that comes with questions of its own.")
    ] = "completejourney",
    config: Annotated[Path | None, Parameter(name=["--config", "-c"], help="Configuration of the files.")] = None,
    topic: Annotated[str | None, Parameter(help="Raw topic that the files' rows are of.")] = None,
    from_topic: Annotated[
        bool, Parameter(negative="", help="The history of the running system, out of its `tokens` topic.")
    ] = False,
    steps: Annotated[int | None, Parameter(help="How many; 800.")] = None,
    samples: Annotated[int | None, Parameter(help="Users at moments to learn from; 36000.")] = None,
    seed: Annotated[int, Parameter(help="Of data, weights and order.")] = 0,
    layout: Annotated[Literal["compiled", "chunked"] | None, Parameter(help="As the model will be used.")] = None,
    threads: Annotated[int, Parameter(help="CPU threads; 0 = all cores.")] = 0,
    contrastive: Annotated[float, Parameter(help="Weight of the paper's contrastive loss beside ours.")] = 0.0,
    name: Annotated[str, Parameter(help="Of the checkpoint: the first part of its model ids.")] = "tiny",
    json_: Annotated[str | None, Parameter(name="--json", help="Write a summary to this file; - = stdout.")] = None,
) -> None:
    """Train a model on a history; the same command again goes on where it was stopped.

    Everything is a function of the history and the seed: a run that was killed ends in the same weights.
    """
    from deploy import output
    from deploy.benches.report import commit
    from deploy.learning import user_u
    from deploy.learning.history_source import HistorySource
    from deploy.learning.plots import losses
    from encoder.learning.baselines.probe import sklearn
    from encoder.learning.pretraining.run import METRICS, save_checkpoint, train
    from encoder.learning.pretraining.settings import PretrainSettings
    from encoder.model import presets
    from store.base import logs

    logs.configure("cli", level="ERROR")
    output.check_json_path(json_)
    sklearn()  # what would fail after minutes fails at once
    default = PretrainSettings()
    told = replace(
        default, steps=steps or default.steps, seed=seed, layout=layout or default.layout, contrastive=contrastive
    )
    source = HistorySource(files, None if files or from_topic else data, topic)
    settings = _settings(source, config, from_topic=from_topic)
    of = [file.name for file in files] or (["tokens"] if from_topic else [])
    _same_run(out, {"settings": asdict(told), "files": of, "samples": samples})
    begun = time.monotonic()
    with output.progress("pretrain", lines_seconds=_PLAIN_LINE_SECONDS) as bar:
        folder = out / _USER_U
        if not user_u.is_there(folder):
            _make(folder, settings, source, samples or user_u.SAMPLES, seed, bar.update)
        trained, validation = user_u.manifests(folder)
        pretrained = presets.load(settings.model)
        trainer = _trainer(settings, folder, trained, told, threads, bar.update)
        train(
            trainer,
            out,
            on_step=lambda step: bar.update(
                _DATA_SHARE + (1 - _DATA_SHARE) * trainer.step / told.steps,
                f"step {trainer.step:,} of {told.steps:,}, loss {step.loss:.3f}",
            ),
        )
        losses(out / _LOSS_PLOT, out / METRICS)
        found = _metrics(trainer, folder, validation)
        card = save_checkpoint(
            trainer, out / _CHECKPOINT, name=name, weights_id=pretrained.weights_id, seeded=pretrained.seeded,
            commit=commit() or "", metrics=found,
        )  # fmt: skip
    seconds = time.monotonic() - begun
    summary: dict[str, Any] = {
        "checkpoint": str(out / _CHECKPOINT), "id": card.id, "steps": trainer.step, "samples": trained.samples,
        "seconds": round(seconds, 1), "validation": found,
    }  # fmt: skip
    if json_ != "-":
        rows = [[question, f"{value:.4f}"] for question, value in found["zero_shot"].items()]
        output.write_table(["question", "AUC"], rows[:_SHOWN], title="cosine to answers, users at later moments")
        output.note(
            f"{out / _CHECKPOINT}: {trainer.step:,} steps in {output.duration(seconds)}; mean {found['mean']:.4f}"
        )
        output.note("To use it: model.checkpoint in the configuration; doctor checks it.")
    if json_ is not None:
        output.write_json_to(json_, summary)


_SHOWN = 12


def _settings(source: HistorySource, config: Path | None, *, from_topic: bool) -> Settings:
    from deploy.commands.common import config_path
    from deploy.learning import complete_journey
    from deploy.settings.config import load
    from store.base.errors import ConfigError

    if from_topic:
        if source.files:
            raise ConfigError("files and --from-topic are two histories", action="give one of them")
        return load(config_path(config))
    if source.data is not None:
        if config is not None:
            raise ConfigError("--config is of files", action="name the files, or leave --config out")
        return complete_journey.load_settings()
    if config is None:
        raise ConfigError("files need a configuration", action="--config FILE; `anchorstream init FILE` proposes one")
    source.check()
    return load(config)


def _same_run(out: Path, told: dict[str, Any]) -> None:
    """Raises ConfigError: the folder holds a run that was begun otherwise."""
    from store.base.errors import ConfigError
    from store.base.files import write_json

    path = out / _SETTINGS
    if path.exists():
        begun = json.loads(path.read_text(encoding="utf-8"))
        if begun != json.loads(json.dumps(told)):
            differ = [key for key in told if begun.get(key) != json.loads(json.dumps(told))[key]]
            raise ConfigError(
                f"{out} holds a run that was begun with other {', '.join(differ)}",
                action="name another folder, or give what it was begun with",
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, told)


def _make(folder: Path, settings: Settings, source: HistorySource, samples: int, seed: int, show: Show) -> None:
    from deploy import output
    from deploy.learning import complete_journey, user_u
    from deploy.learning.history_source import load_windows

    def part(done: float, text: str) -> None:
        show(_DATA_SHARE * done, text)

    if source.data is None:
        windows, without_text = load_windows(settings, source, lambda done, text: part(0.1 * done, text))
        if without_text:
            output.note(f"{without_text:,} of {windows.history.rows:,} events have left their windows: without texts")
        name = ", ".join(file.name for file in source.files) or "tokens"
        user_u.of_windows(folder, settings, windows, name=name, samples=samples, seed=seed, show=part)
        return
    assert source.data == complete_journey.NAME
    panel = complete_journey.load_data_set(settings, lambda done, text: part(0.2 * done, text))
    user_u.of_journey(folder, settings, panel, samples=samples, seed=seed, show=part)


def _trainer(
    settings: Settings, folder: Path, manifest: Manifest, told: PretrainSettings, threads: int, show: Show
) -> Trainer:
    import os

    import torch

    from deploy.learning.user_u import TRAIN
    from encoder.learning.pretraining.teacher import teach
    from encoder.learning.pretraining.trainer import Trainer
    from encoder.model import presets
    from encoder.model.query_vectors import QueryVectors
    from encoder.model.user_model import UserModel

    manifest.check(settings.modalities, folder)
    threads = threads or os.cpu_count() or 1
    targets = None
    if told.distillation:
        targets = teach(
            folder / TRAIN, manifest, most=told.taught, threads=threads,
            on_progress=lambda done, of: show(_DATA_SHARE, f"trees of {done} of {of} questions"),
        )  # fmt: skip
    torch.set_num_threads(threads)
    model = UserModel(
        presets.load(settings.model), settings.modalities, dim=manifest.dim, seed=told.seed, vectors=QueryVectors().of
    )
    return Trainer(model, folder / TRAIN, manifest, told, targets)


def _metrics(trainer: Trainer, folder: Path, manifest: Manifest) -> dict[str, Any]:
    """On users at later moments, by the averaged weights."""
    from deploy.learning.user_u import VALIDATION
    from encoder.learning.pretraining.validation import zero_shot

    with trainer.using_average() as model:
        found = zero_shot(model, folder / VALIDATION, manifest, layout=trainer.settings.layout)
    return {"zero_shot": found, "mean": sum(found.values()) / max(len(found), 1)}
