"""Encoders shared by the tests: the preset `tiny`, seeded."""

from __future__ import annotations

import pytest
import torch

from encoder.forward.user_encoder import UserEncoder
from encoder.model.settings import ModelSettings
from store.base.settings import ScenarioSettings
from tests.support.windows import DIM, MODALITIES

# Tests share the machine; two threads that wait for each other on a busy core are slower than one.
torch.set_num_threads(1)

SCENARIOS = {
    "churn": ScenarioSettings(query="Will this user stop coming in the next month?"),
    "credit_risk": ScenarioSettings(query="Will this user fall behind on a repayment?"),
    "milk": ScenarioSettings(query="Milk?"),
}


@pytest.fixture(scope="session")
def tiny() -> UserEncoder:
    return UserEncoder(
        ModelSettings(device="cpu", kv_pool_bytes=32 << 20, checkpoint="none"), MODALITIES, SCENARIOS, DIM
    )
