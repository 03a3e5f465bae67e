"""Text vectors of queries: those of the events' encoder, which is loaded once, and only if anybody asks."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from encoder.forward.model_set import ModelSet
from encoder.model import query_vectors
from encoder.model.query_vectors import QueryVectors
from encoder.model.settings import ModelSettings
from encoder.model.text_encoder import TextEncoder
from store.base.settings import ScenarioSettings
from tests.support.windows import DIM, MODALITIES

SMALL = ModelSettings(device="cpu", kv_pool_bytes=0)
CHURN = ScenarioSettings(query="Will this user stop coming in the next month?")


def test_a_query_has_the_unit_vector_of_its_text() -> None:
    vectors = QueryVectors()
    got = vectors.of(CHURN.query)
    assert np.linalg.norm(got) == pytest.approx(1, abs=1e-6)
    assert got @ TextEncoder(cache_entries=0).encode([CHURN.query])[0].astype(np.float32) == pytest.approx(1, abs=1e-3)
    assert vectors.of("Milk?") @ got < 0.9
    assert np.array_equal(vectors.of(CHURN.query), got)


def test_a_model_and_its_candidates_load_one_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    class Counted(TextEncoder):
        def __init__(self, **options: int) -> None:
            loaded.append(1)
            super().__init__(**options)

    monkeypatch.setattr(query_vectors, "TextEncoder", Counted)
    models = ModelSet(SMALL, {"next": SMALL.model_copy(update={"seed": 1})}, MODALITIES, {}, DIM)
    assert len(loaded) == 1, "the modalities' names are texts too"
    for name in models.names_of("churn"):
        models.add_scenario(name, CHURN)
    models.anchor(ScenarioSettings(query="Milk?"))
    assert len(loaded) == 1


def test_another_time_zone_is_another_model() -> None:
    def model_id(zone: str) -> str:
        return ModelSet(SMALL.model_copy(update={"time_zone": zone}), {}, MODALITIES, {"churn": CHURN}, DIM).model_id(
            "churn"
        )

    assert model_id("UTC") != model_id("Europe/Paris")
    with pytest.raises(ValidationError, match="not a time zone"):
        ModelSettings(time_zone="Europe/Nowhere")
