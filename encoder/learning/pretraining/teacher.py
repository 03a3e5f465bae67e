"""Soft answers to learn from: gradient-boosted trees on the statistics, each user's by trees that never saw it.

An answer that came true is one bit, of which most is chance; what trees make of the statistics of others is smoother.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.learning.baselines.boosted import lightgbm
from encoder.learning.user_u.shards import Manifest, Samples, read_shard
from store.base.files import open_atomic

FILE = "teacher.npz"
FOLDS = 2
MIN_OF_EACH = 200
"""Fewer yes or no, and trees would learn chance."""
MAX_SAMPLES = 60_000
"""That trees are fitted on: their memory does not grow with the data."""
_TREES = {
    "n_estimators": 130, "learning_rate": 0.04, "num_leaves": 15, "min_child_samples": 40, "subsample": 0.8,
    "subsample_freq": 1, "colsample_bytree": 0.4, "reg_lambda": 5, "random_state": 0, "verbose": -1,
}  # fmt: skip

Targets = dict[str, NDArray[np.float32]]
"""Per shard float32 (samples, questions): how likely a yes within the longest horizon is; NaN = not taught."""


def teach(
    folder: Path,
    manifest: Manifest,
    *,
    most: int,
    threads: int,
    on_progress: Callable[[int, int], object] = lambda done, of: None,
) -> Targets:
    """Fit and predict, or read what was found before.

    Args:
        most: questions, those of the greatest weight.

    Raises:
        NotFoundError: LightGBM is not installed, or a shard is missing. OSError: the folder cannot be written to.
    """
    names = sorted(manifest.shards)
    if not (folder / FILE).exists():
        _write(folder, manifest, names, most, threads, on_progress)
    with np.load(folder / FILE) as found:
        return {name: found[name] for name in names}


def _write(
    folder: Path,
    manifest: Manifest,
    names: list[str],
    most: int,
    threads: int,
    on_progress: Callable[[int, int], object],
) -> None:
    fitted = _first(folder, manifest, names)
    classes = fitted.classes[:, :, -1]
    weights = np.array([question.weight for question in manifest.questions])
    counts = np.minimum((classes == 1).sum(0), (classes == 0).sum(0))
    binary = np.array([question.binary for question in manifest.questions])
    able = np.flatnonzero(binary & (counts >= MIN_OF_EACH))
    taught = able[np.argsort(-weights[able], kind="stable")[:most]]
    fold = _fold(fitted.users)
    trees = {}
    for i, question in enumerate(taught.tolist()):
        for held_out in range(FOLDS):
            rows = (fold != held_out) & (classes[:, question] >= 0)
            model = lightgbm().LGBMClassifier(**_TREES, n_jobs=threads)
            trees[question, held_out] = model.fit(_columns(fitted.take(np.flatnonzero(rows))), classes[rows, question])
        on_progress(i + 1, len(taught))
    found = {}
    for name in names:
        samples = read_shard(folder, name).samples
        targets = np.full((len(samples.users), len(manifest.questions)), np.nan, np.float32)
        mine = _fold(samples.users)
        columns = _columns(samples)
        for (question, held_out), model in trees.items():
            asked = (mine == held_out) & (samples.classes[:, question, -1] >= 0)
            if asked.any():
                targets[asked, question] = model.predict_proba(columns[asked])[:, 1]
        found[name] = targets
    with open_atomic(folder / FILE) as file:
        arrays: dict[str, Any] = found
        np.savez(file, **arrays)


def _first(folder: Path, manifest: Manifest, names: list[str]) -> Samples:
    parts, have = [], 0
    for name in names:
        parts.append(read_shard(folder, name).samples)
        have += manifest.shards[name]
        if have >= MAX_SAMPLES:
            break
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Samples(*columns)


def _fold(users: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which part a user is in, by its place: users are in order of their ids, which says nothing of them."""
    mixed: NDArray[np.int64] = (users * 2654435761 >> 7) % FOLDS
    return mixed


def _columns(samples: Samples) -> NDArray[np.float32]:
    return np.concatenate([samples.stats, samples.match.reshape(len(samples.users), -1)], 1).astype(np.float32)
