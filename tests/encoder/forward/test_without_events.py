"""Vectors from summaries alone: nothing of an event token is in them, and they are another model's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from encoder.forward.user_encoder import UserEncoder
from encoder.model.settings import ModelSettings
from store.base.settings import ScenarioSettings
from tests.support.windows import DIM, MODALITIES, random_rows, window

SCENARIOS = {"churn": ScenarioSettings(query="Will this user stop coming?")}
USERS = [window(f"u{i}", random_rows(i, 40)) for i in range(3)]


@pytest.mark.parametrize("layout", ["compiled", "chunked", "causal"])
def test_only_the_summaries_are_read(layout: str) -> None:
    settings = ModelSettings(device="cpu", layout=layout, event_tokens=False)  # type: ignore[arg-type]
    encoder = UserEncoder(settings, MODALITIES, SCENARIOS, DIM)
    whole = UserEncoder(settings.model_copy(update={"event_tokens": True}), MODALITIES, SCENARIOS, DIM)
    assert encoder.pool is None
    got = encoder.encode(USERS, ["churn"])
    assert np.allclose(np.linalg.norm(got, axis=-1), 1, atol=1e-5)
    assert encoder.work.tokens == 3 * encoder.tokens_of(["churn"]) + (3 * 4 if layout == "causal" else 0)
    assert np.abs(got - whole.encode(USERS, ["churn"])).max() > 1e-3
    assert encoder.model_id("churn") != whole.model_id("churn")
    assert np.allclose(got, encoder.encode_from_scratch(USERS, ["churn"]), atol=1e-5)
    nameless = [  # the same rows under other ids are cut into other chunks
        replace(user, modalities={
            name: replace(own, names=[f"x{n}" for n in own.names]) for name, own in user.modalities.items()
        })
        for user in USERS
    ]  # fmt: skip
    assert np.allclose(got, encoder.encode(nameless, ["churn"]), atol=1e-5)
