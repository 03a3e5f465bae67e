"""Two models side by side give each what it gives alone; their pages never mix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from encoder.forward.model_set import ModelSet
from encoder.model.settings import ModelSettings
from store.base.errors import NotFoundError, WeightsError
from store.base.settings import ScenarioSettings
from tests.encoder.conftest import SCENARIOS
from tests.support.windows import DIM, MODALITIES, random_rows, window

MAIN = ModelSettings(threads=1, device="cpu", kv_pool_bytes=8 << 20, checkpoint="none")
NEXT = MAIN.model_copy(update={"seed": 1})
BIG = MAIN.model_copy(update={"layout": "causal"})


@pytest.fixture(scope="module")
def both() -> ModelSet:
    return ModelSet(MAIN, {"next": NEXT, "big": BIG}, MODALITIES, SCENARIOS, DIM)


def test_each_model_gives_what_it_gives_alone(both: ModelSet) -> None:
    """Bit for bit, over updates that find the pages of the step before."""
    alone = {"": ModelSet(MAIN, {}, MODALITIES, SCENARIOS, DIM), "next": ModelSet(NEXT, {}, MODALITIES, SCENARIOS, DIM)}
    names = ["churn@next", "milk", "churn", "credit_risk@next", "milk@next"]
    rows = {f"u{i}": random_rows(i, 120) for i in range(4)}
    for count in (60, 61, 90, 120):
        windows = [window(user, sorted(of, key=lambda row: row.ts)[:count]) for user, of in rows.items()]
        got = both.encode(windows, names)
        for candidate, model in alone.items():
            mine = [i for i, name in enumerate(names) if name.partition("@")[2] == candidate]
            plain = [names[i].partition("@")[0] for i in mine]
            np.testing.assert_array_equal(got[:, mine], model.encode(windows, plain))
    for candidate, model in alone.items():
        pool, own = both.encoder(candidate).pool, model.main.pool
        assert pool is not None
        assert own is not None
        assert pool.stats == own.stats
        assert pool.stats.hit > 0
    assert both.main.pool is not both.encoder("next").pool


def test_models_are_told_apart_by_their_ids(both: ModelSet) -> None:
    ids = [both.model_id(name) for name in both.names_of("churn")]
    assert both.names_of("churn") == ["churn", "churn@next", "churn@big"]
    assert len(set(ids)) == 3
    assert sorted(both.scenarios) == sorted(name for s in SCENARIOS for name in both.names_of(s))
    assert both.tokens_of(["churn", "churn@next"]) == 2 * both.tokens_of(["churn"])


def test_order_and_subsets_do_not_matter(both: ModelSet) -> None:
    windows = [window("u", random_rows(3, 30))]
    names = ["milk@next", "churn", "milk", "churn@big"]
    whole = both.encode_from_scratch(windows, names)
    for i, name in enumerate(names):
        np.testing.assert_allclose(both.encode_from_scratch(windows, [name])[0, 0], whole[0, i], atol=1e-5)
    assert both.encode(windows, []).shape == (1, 0, 128)


def test_an_unknown_candidate_is_named(both: ModelSet) -> None:
    with pytest.raises(NotFoundError, match="unknown candidate 'nxt'"):
        both.encode([], ["churn@nxt"])
    with pytest.raises(NotFoundError, match="unknown scenario 'nope'"):
        both.encode([], ["nope@next"])


def test_a_scenario_may_fail_in_one_model_and_not_in_another(tmp_path: Path) -> None:
    save_file({"prompt": torch.randn(4, 192)}, tmp_path / "risk.safetensors")
    models = ModelSet(MAIN.model_copy(update={"prompts_dir": tmp_path}), {"next": NEXT}, MODALITIES, {}, DIM)
    tuned = ScenarioSettings(query="Will this user default?", prompt="risk")
    models.add_scenario("risk", tuned)
    with pytest.raises(WeightsError) as missing:
        models.add_scenario("risk@next", tuned)
    assert missing.value.code == "prompt_missing"
    assert models.scenarios == ["risk"]
    assert models.anchor(tuned).id == models.model_id("risk")
