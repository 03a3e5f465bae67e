"""A checkpoint brings back the model that was saved, and refuses what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from encoder.forward.user_encoder import UserEncoder
from encoder.model import checkpoint, lora, presets
from encoder.model.settings import ModelSettings
from encoder.model.user_model import UserModel
from store.base.errors import WeightsError
from store.base.settings import ModalitySettings, ScenarioSettings
from tests.support.windows import DIM, MODALITIES, random_rows, window

SCENARIOS = {"churn": ScenarioSettings(query="Will this user stop coming?")}
USERS = [window(f"u{i}", random_rows(i, 30)) for i in range(2)]


def encoder(directory: Path | None = None, **changes: object) -> UserEncoder:
    options = {"device": "cpu", "kv_pool_bytes": 0, "checkpoint": directory or "none"} | changes
    modalities = options.pop("modalities", MODALITIES)
    scenarios = options.pop("scenarios", SCENARIOS)
    return UserEncoder(ModelSettings(**options), modalities, scenarios, DIM)  # type: ignore[arg-type]


def save(model: UserModel, directory: Path, *, trained: bool = True) -> checkpoint.Card:
    weights_id = presets.load(ModelSettings()).weights_id
    return checkpoint.save(
        model, directory, name="tiny-test", weights_id=weights_id, trained=trained, seeded=True, metrics={"auc": 0.8}
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint of `tiny` with other weights than the seeded ones, and one soft prompt."""
    source = encoder()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in source.model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    source.set_prompt("tuned", torch.randn(3, source.model.backbone.hidden))
    save(source.model, tmp_path)
    return tmp_path


def test_round_trip(saved: Path) -> None:
    seeded, loaded = encoder(), encoder(saved)
    assert loaded.trained
    assert not seeded.trained
    assert loaded.card is not None
    assert loaded.card.prompts == ["tuned"]
    assert loaded.card.metrics == {"auc": 0.8}
    assert loaded.model_id("churn").startswith("tiny-test-")
    assert loaded.model_id("churn") != seeded.model_id("churn")
    got = loaded.encode(USERS, ["churn"])
    assert np.abs(got - seeded.encode(USERS, ["churn"])).max() > 0.01
    again = encoder(saved)
    assert np.array_equal(again.encode(USERS, ["churn"]), got)
    prompted = {"p": ScenarioSettings(query="Will this user stop coming?", prompt="tuned")}
    assert np.abs(encoder(saved, scenarios=prompted).encode(USERS, ["p"]) - got).max() > 1e-3


def test_modalities_may_be_added_and_left_out(saved: Path) -> None:
    more = MODALITIES | {"extra": ModalitySettings(topic="x")}
    bigger = encoder(saved, modalities=more)
    loaded, seeded = encoder(saved).model.state_dict(), encoder(modalities=more).model.state_dict()
    state = bigger.model.state_dict()
    for name, tensor in state.items():
        unlearned = name.startswith("adapters.residual.extra.")
        assert torch.equal(tensor, seeded[name] if unlearned else loaded[name]), name
    fewer = encoder(saved, modalities={"bill": MODALITIES["bill"]})
    assert fewer.encode(USERS, ["churn"]).shape == (2, 1, 128)


def test_lora_is_merged_exactly(tmp_path: Path) -> None:
    source = encoder()
    plain = source.encode(USERS, ["churn"])
    added = lora.attach(source.model.lm, rank=4, alpha=8.0, dropout=0.1, seed=0)
    source.model.eval()
    assert np.allclose(source.encode(USERS, ["churn"]), plain, atol=1e-6), "a fresh update changes nothing"
    assert len(added) == 2 * 7 * source.model.backbone.layers
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in added:
            parameter += 0.1 * torch.randn_like(parameter)
    source.add_scenario("churn", SCENARIOS["churn"])  # its anchor may have been compiled with the weights before
    wanted = source.encode(USERS, ["churn"])
    assert np.abs(wanted - plain).max() > 0.01
    checkpoint.save(
        source.model,
        tmp_path,
        name="lora",
        weights_id=presets.load(ModelSettings()).weights_id,
        trained=True,
        seeded=False,
    )
    names = checkpoint.load_file(tmp_path / checkpoint.TENSORS)
    assert not any(name.startswith(checkpoint.BACKBONE) for name in names), "frozen weights are not saved"
    merged = encoder(tmp_path).encode(USERS, ["churn"])
    assert np.allclose(merged, wanted, atol=1e-5)


def test_what_does_not_fit_is_refused(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    def refused(match: str, directory: Path = saved, **changes: object) -> None:
        with pytest.raises(WeightsError, match=match) as caught:
            encoder(directory, **changes)
        assert caught.value.action

    refused("not a checkpoint", tmp_path_factory.mktemp("empty"))
    card = json.loads((saved / checkpoint.CARD).read_text())
    (saved / checkpoint.CARD).write_text(json.dumps(card | {"weights_id": "other"}))
    refused("trained on other")
    (saved / checkpoint.CARD).write_text(json.dumps({key: card[key] for key in card if key != "features"}))
    refused("version 1 of the statistics")
    (saved / checkpoint.CARD).write_text(json.dumps(card | {"id": "000000000000"}))
    refused("not those of the card")
    (saved / checkpoint.CARD).write_text(json.dumps(card | {"format": 99}))
    refused("format")
    (saved / checkpoint.CARD).write_text("{")
    refused("card.json")
    (saved / checkpoint.CARD).write_text(json.dumps(card))
    (saved / checkpoint.TENSORS).write_bytes(b"garbage")
    refused("safetensors")


def test_an_interrupted_save_is_not_a_checkpoint(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, "save_file", die)
    with pytest.raises(OSError, match="no space"):
        save(encoder().model, saved)
    with pytest.raises(WeightsError, match="not a checkpoint"):
        checkpoint.read_card(saved)
