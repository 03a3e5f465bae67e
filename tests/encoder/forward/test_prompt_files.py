"""Soft prompts beside the checkpoint: loaded when a scenario names them, swapped when it is registered again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from encoder.forward.model_set import ModelSet
from encoder.model.settings import ModelSettings
from encoder.model.soft_prompt import MAX_PROMPT_TOKENS, About, SoftPrompt
from encoder.model.soft_prompt import write as write_prompt
from store.base.errors import WeightsError
from store.base.settings import ScenarioSettings
from tests.support.windows import DIM, MODALITIES, random_rows, window

HIDDEN = 192
QUERY = "Will this user default?"
TUNED = ScenarioSettings(query=QUERY, prompt="risk")
WINDOWS = [window("u", random_rows(1, 20))]


def write(folder: Path, name: str, seed: int, tokens: int = 3, hidden: int = HIDDEN) -> torch.Tensor:
    prompt = torch.randn(tokens, hidden, generator=torch.Generator().manual_seed(seed))
    save_file({"prompt": prompt}, folder / f"{name}.safetensors")
    return prompt


def settings_of(folder: Path) -> ModelSettings:
    return ModelSettings(threads=1, device="cpu", kv_pool_bytes=8 << 20, prompts_dir=folder, checkpoint="none")


@pytest.fixture
def models(tmp_path: Path) -> ModelSet:
    return ModelSet(settings_of(tmp_path), {}, MODALITIES, {"plain": ScenarioSettings(query=QUERY)}, DIM)


def test_a_prompt_is_loaded_when_a_scenario_names_it(models: ModelSet, tmp_path: Path) -> None:
    prompt = write(tmp_path, "risk", seed=1)
    models.add_scenario("risk", TUNED)
    assert models.model_id("risk") != models.model_id("plain")
    assert len(models.anchor(TUNED).tokens) == len(models.anchor(ScenarioSettings(query=QUERY)).tokens) + len(prompt)
    models.main.set_prompt("by_hand", prompt)
    models.main.add_scenario("by_hand", ScenarioSettings(query=QUERY, prompt="by_hand"))
    assert models.main.model_id("by_hand") == models.model_id("risk")
    got = models.encode(WINDOWS, ["risk", "by_hand", "plain"])[0]
    np.testing.assert_allclose(got[0], got[1], atol=1e-6)
    assert float(got[0] @ got[2]) < 0.9999


def test_another_file_under_the_name_is_another_model_once_registered_again(models: ModelSet, tmp_path: Path) -> None:
    """For every scenario that has the prompt: else theirs would change at the next restart."""
    write(tmp_path, "risk", seed=1)
    models.add_scenario("risk", TUNED)
    models.add_scenario("too", ScenarioSettings(query="And this?", prompt="risk"))
    first = models.model_id("risk"), models.model_id("too")
    before = models.encode(WINDOWS, ["risk", "too"])
    models.add_scenario("risk", TUNED)
    assert (models.model_id("risk"), models.model_id("too")) == first
    write(tmp_path, "risk", seed=2)
    assert (models.model_id("risk"), models.model_id("too")) == first, "not by itself"
    models.add_scenario("risk", TUNED)
    assert models.model_id("risk") != first[0]
    assert models.model_id("too") != first[1]
    assert not np.allclose(models.encode(WINDOWS, ["risk", "too"]), before)
    again = ModelSet(settings_of(tmp_path), {}, MODALITIES, {"risk": TUNED}, DIM)
    assert again.model_id("risk") == models.model_id("risk")


def faulty(folder: Path, fault: str) -> None:
    path = folder / "risk.safetensors"
    if fault == "garbage":
        path.write_bytes(b"not a tensor")
    elif fault == "width":
        write(folder, "risk", 1, hidden=HIDDEN + 1)
    elif fault == "long":
        write(folder, "risk", 1, tokens=MAX_PROMPT_TOKENS + 1)
    elif fault == "nan":
        save_file({"prompt": torch.full((2, HIDDEN), float("nan"))}, path)
    elif fault == "two":
        save_file({"a": torch.zeros(2, HIDDEN), "b": torch.zeros(2, HIDDEN)}, path)
    elif fault == "flat":
        save_file({"a": torch.zeros(HIDDEN)}, path)
    elif fault == "whole numbers":
        save_file({"a": torch.zeros(2, HIDDEN, dtype=torch.int64)}, path)


@pytest.mark.parametrize("fault", ["garbage", "width", "long", "nan", "two", "flat", "whole numbers"])
def test_a_file_that_is_no_prompt_is_refused_and_changes_nothing(models: ModelSet, tmp_path: Path, fault: str) -> None:
    write(tmp_path, "risk", seed=1)
    models.add_scenario("risk", TUNED)
    before = models.model_id("risk")
    faulty(tmp_path, fault)
    with pytest.raises(WeightsError) as refused:
        models.add_scenario("risk", TUNED)
    assert refused.value.code == "weights_unusable"
    assert models.model_id("risk") == before


@pytest.mark.parametrize("name", ["nowhere", "../risk", "a.b", "", "Risk", "risk\x00"])
def test_a_prompt_that_is_not_there_is_missing(models: ModelSet, tmp_path: Path, name: str) -> None:
    """A name is no path."""
    (tmp_path.parent / "risk.safetensors").write_bytes(b"outside")
    with pytest.raises(WeightsError) as missing:
        models.add_scenario("risk", ScenarioSettings(query=QUERY, prompt=name))
    assert missing.value.code == "prompt_missing"
    assert models.scenarios == ["plain"]


def test_without_a_directory_the_checkpoints_prompts_are_all(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="prompts_dir is not set"):
        ModelSet(
            ModelSettings(threads=1, device="cpu", kv_pool_bytes=0, checkpoint="none"),
            {},
            MODALITIES,
            {"risk": TUNED},
            DIM,
        )


@pytest.mark.parametrize(("weights", "fits"), [("", True), ("ours", True), ("tiny:other|seed=0", False)])
def test_a_prompt_of_other_weights_is_refused(models: ModelSet, tmp_path: Path, weights: str, fits: bool) -> None:
    tokens = torch.randn(6, HIDDEN, generator=torch.Generator().manual_seed(0))
    about = About("risk", QUERY, models.main.weights if weights == "ours" else weights, classes=["no", "yes"])
    write_prompt(tmp_path / "risk.safetensors", SoftPrompt(tokens, torch.eye(2, 128), about))
    if fits:
        models.add_scenario("risk", TUNED)
        assert torch.equal(models.main.model.prompts["risk"], tokens)
        return
    with pytest.raises(WeightsError, match="tuned on other weights"):
        models.add_scenario("risk", TUNED)
    assert models.scenarios == ["plain"]
