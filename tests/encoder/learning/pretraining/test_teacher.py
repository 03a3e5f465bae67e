"""Trees answer for users they never saw, and are asked once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoder.learning.pretraining import teacher
from encoder.learning.tasks.scores import auc
from encoder.learning.user_u.shards import read_manifest, read_shard
from encoder.statistics.statistics import names
from tests.support import small_pretraining as small
from tests.support.small_data_set import MODALITIES


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(teacher, "MIN_OF_EACH", 5)
    monkeypatch.setitem(teacher._TREES, "min_child_samples", 5)
    small.write(tmp_path)
    (name,) = read_manifest(tmp_path).shards
    samples = read_shard(tmp_path, name).samples
    spent = samples.stats[:, names(MODALITIES).index("bill.amount.total_28d")]
    much = (spent > np.median(spent))[:, None, None]
    small.replace_classes(tmp_path, name, np.where(samples.classes >= 0, much, -1).astype(np.int8))
    return tmp_path


def test_what_is_taught_is_of_other_users(data: Path) -> None:
    manifest = read_manifest(data)
    found = teacher.teach(data, manifest, most=2, threads=1)
    (name,) = manifest.shards
    samples, targets = read_shard(data, name).samples, found[name]
    taught = ~np.isnan(targets)
    questions = [i for i, question in enumerate(manifest.questions) if len(question.answers) == 2]
    assert set(np.flatnonzero(taught.any(0)).tolist()) <= set(questions)
    tea = next(i for i, question in enumerate(manifest.questions) if question.name == "tea")
    assert (taught[:, tea] == (samples.classes[:, tea, -1] >= 0)).all()
    rows = taught[:, tea]
    y = samples.classes[rows, tea, -1] == 1
    assert auc(targets[rows, tea].astype(np.float64), y) > 0.9, "it is in the statistics of the others"
    again = teacher.teach(data, manifest, most=2, threads=1)
    assert np.array_equal(again[name], targets, equal_nan=True)


def test_no_answer_of_a_user_reaches_its_own_trees(data: Path) -> None:
    """All answers of one half are turned round: that half's targets stay as they are."""
    manifest = read_manifest(data)
    (name,) = manifest.shards
    before = teacher.teach(data, manifest, most=2, threads=1)[name]
    shard = read_shard(data, name)
    half = teacher._fold(shard.samples.users) == 0
    classes = shard.samples.classes.copy()
    classes[half] = np.where(classes[half] >= 0, 1 - np.minimum(classes[half], 1), -1)
    small.replace_classes(data, name, classes)
    (data / teacher.FILE).unlink()
    after = teacher.teach(data, manifest, most=2, threads=1)[name]
    assert np.array_equal(before[half], after[half], equal_nan=True)
    assert not np.array_equal(before[~half], after[~half], equal_nan=True)
