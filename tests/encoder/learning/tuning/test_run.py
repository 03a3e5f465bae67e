"""A prompt on a made-up population: it lifts held-out users, changes no weight, and is the same for the same seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from encoder.forward.user_encoder import UserEncoder
from encoder.learning.tasks.rows import Split
from encoder.learning.tuning.labels import Label, Labelled, match
from encoder.learning.tuning.run import Run, Scenario, with_clusters, with_labels
from encoder.learning.tuning.scores import WITH, WITHOUT
from encoder.learning.tuning.settings import TuneSettings
from encoder.learning.windows import Windows
from encoder.model.settings import ModelSettings
from store.base.errors import ConfigError
from tests.support.searchers import history, kinds
from tests.support.small_data_set import DAY, MODALITIES, START
from tests.support.windows import DIM

pytest.importorskip("sklearn")

USERS = 300
PAST = history(USERS)
WINDOWS = Windows(PAST, DAY // 24)
MODEL = ModelSettings(threads=1, device="cpu", kv_pool_bytes=0, event_tokens=False, checkpoint="none")
TOLD = TuneSettings(steps=100, batch=64)


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return Scenario("same", "Does this user look for what it buys?", UserEncoder(MODEL, MODALITIES, {}, DIM), MODEL)


def labelled(names: tuple[str, ...] = ("0", "1")) -> Labelled:
    same = np.equal(*kinds(USERS))
    return match(
        [
            Label(user, START + day * DAY, names[int(same[u]) if len(names) == 2 else (u + int(same[u])) % 3])
            for u, user in enumerate(PAST.users)
            for day in (20, 30, 40, 50, 60)
        ],
        PAST,
    )


def run(scenario: Scenario, told: TuneSettings = TOLD) -> Run:
    return with_labels(scenario, WINDOWS, labelled(), told, lambda done, text: None)


@pytest.fixture(scope="module")
def made(scenario: Scenario) -> Run:
    return run(scenario)


def test_a_prompt_lifts_users_it_never_saw(made: Run) -> None:
    assert made.scores is not None
    of = made.scores.methods
    assert of[WITH, "prototypes"].mean_auc > of[WITHOUT, "prototypes"].mean_auc + 0.03
    told = made.scores.to_dict()
    assert told[WITH]["prototypes"]["auc"] == pytest.approx(of[WITH, "prototypes"].mean_auc, abs=1e-6)
    assert told["lift"]["prototypes"][1] > 0, "surely"
    assert made.prompt.about.scores == told


def test_no_weight_moves(scenario: Scenario) -> None:
    before = {name: tensor.clone() for name, tensor in scenario.encoder.model.state_dict().items()}
    run(scenario, replace(TOLD, steps=5))
    after = scenario.encoder.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad or p.grad is not None for p in scenario.encoder.model.parameters())


def test_the_same_seed_is_the_same_prompt(scenario: Scenario) -> None:
    short = replace(TOLD, steps=12)
    first, again, other = run(scenario, short), run(scenario, short), run(scenario, replace(short, seed=1))
    assert torch.equal(first.prompt.tokens, again.prompt.tokens)
    assert first.prompt.about == again.prompt.about
    assert first.prompt.id != other.prompt.id


def test_held_out_users_are_not_learned_from(scenario: Scenario, made: Run) -> None:
    """Their labels could be any: the prompt is the same."""
    rows = labelled()
    held = rows.split == Split.TEST
    lied = replace(rows, classes=np.where(held, 1 - rows.classes, rows.classes))
    other = with_labels(scenario, WINDOWS, lied, TOLD, lambda done, text: None)
    assert torch.equal(other.prompt.tokens, made.prompt.tokens)
    assert other.scores is not None
    assert other.scores.methods[WITH, "prototypes"].mean_auc < 0.5


def test_more_classes_than_two(scenario: Scenario) -> None:
    found = with_labels(
        scenario, WINDOWS, labelled(("gold", "iron", "wood")), replace(TOLD, steps=5), lambda done, text: None
    )
    assert found.prompt.prototypes is not None
    assert found.prompt.prototypes.shape == (3, 128)
    assert found.prompt.about.classes == ["gold", "iron", "wood"]
    assert found.scores is not None
    assert set(found.scores.to_dict()[WITH]["probe"]["classes"]) == {"gold", "iron", "wood"}


def test_as_many_rows_as_fit_are_used(scenario: Scenario) -> None:
    few = run(scenario, replace(TOLD, steps=2, rows=300, state_bytes=1))
    assert len(few.labelled.users) == 128
    assert len(run(scenario, replace(TOLD, steps=2, rows=300)).labelled.users) == 300


def test_groups_without_labels(scenario: Scenario) -> None:
    found = with_clusters(scenario, WINDOWS, 3, TOLD, lambda done, text: None)
    assert found.scores is None
    assert found.separation[WITH]["margin"] > found.separation[WITHOUT]["margin"]
    assert found.prompt.about.classes == ["0", "1", "2"]
    with pytest.raises(ConfigError, match="for 200 groups"):
        with_clusters(scenario, WINDOWS, 200, TOLD, lambda done, text: None)
