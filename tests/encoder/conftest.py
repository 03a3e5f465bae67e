"""Encoders shared by the tests: the preset `tiny`, seeded."""

from __future__ import annotations

import pytest

from encoder.settings import ModelSettings
from encoder.user_encoder import UserEncoder
from store.settings import ScenarioSettings
from tests.support.windows import DIM, MODALITIES

SCENARIOS = {
    "churn": ScenarioSettings(query="Will this user stop coming in the next month?"),
    "credit_risk": ScenarioSettings(query="Will this user fall behind on a repayment?"),
    "milk": ScenarioSettings(query="Milk?"),
}


@pytest.fixture(scope="session")
def tiny() -> UserEncoder:
    return UserEncoder(ModelSettings(device="cpu", kv_pool_bytes=32 << 20), MODALITIES, SCENARIOS, DIM)
