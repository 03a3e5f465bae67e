"""Compiled anchors: what is encoded once is what each user's forward would have computed, and trains as it is used."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from encoder.forward import tail as tails
from encoder.forward.compiled import compile_segments, join
from encoder.forward.compiled_attention import runs
from encoder.forward.forward import user_states
from encoder.forward.user_encoder import UserEncoder
from encoder.forward.user_tokens import prepare
from encoder.model.settings import ModelSettings
from store.base.settings import ScenarioSettings
from tests.support import naive_encoder
from tests.support.windows import DIM, MODALITIES, random_rows, window

LEAD = len(MODALITIES) + 1
LONG = ScenarioSettings(query=" ".join(["Which of the coming weeks will this user spend more in?"] * 6))
EMPTY = ScenarioSettings(query=" ")


@pytest.fixture(scope="module")
def compiled(tiny: UserEncoder) -> UserEncoder:
    return tiny.with_layout("compiled")


def segments(lengths: list[int], hidden: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, hidden, generator=generator) for n in lengths]


def test_a_refresh_of_ten_scenarios_computes_one_token_of_each(compiled: UserEncoder) -> None:
    encoder = compiled.with_layout("compiled")
    for i in range(10):
        encoder.add_scenario(f"s{i}", ScenarioSettings(query=f"Is this user of kind {i}?"))
    names = [f"s{i}" for i in range(10)]
    assert encoder.tokens_of(names) == LEAD + 10
    user = window("u", random_rows(1, 60))
    encoder.encode([user], names)
    encoder.encode([user], names)
    assert encoder.work.tokens == LEAD + 10


def test_an_anchor_is_the_same_in_any_company(compiled: UserEncoder) -> None:
    lengths = [3, 1, 0, 70, 12]
    own = segments(lengths, compiled.model.backbone.hidden)
    together = compile_segments(compiled.model.backbone, own, LEAD)
    alone = join([compile_segments(compiled.model.backbone, [segment], LEAD) for segment in own])
    assert torch.equal(together.seen, alone.seen)
    assert together.seen.sum(1).tolist() == lengths
    seen = together.seen[..., None, None]
    for a, b in zip([*together.keys, *together.values], [*alone.keys, *alone.values], strict=True):
        assert torch.allclose(a * seen, b * seen, atol=1e-5)


@pytest.mark.parametrize("count", [0, 40])
def test_queries_of_any_length_beside_each_other(compiled: UserEncoder, count: int) -> None:
    """Also one without a token, and one of the most there may be."""
    encoder = compiled.with_layout("compiled")
    encoder.add_scenario("long", LONG)
    encoder.add_scenario("empty", EMPTY)
    names = ["empty", "churn", "long", "milk"]
    users = [window(f"u{i}", random_rows(i, count * (i + 1))) for i in range(3)]
    got = encoder.encode_from_scratch(users, names)
    for user, own in zip(users, got, strict=True):
        naive = naive_encoder.chunked(encoder, user, names, MODALITIES, compiled=True)
        np.testing.assert_allclose(own, naive, atol=2e-5)
    only = encoder.encode_from_scratch(users, ["empty"])
    np.testing.assert_allclose(only[:, 0], got[:, 0], atol=1e-5)


def test_an_unregistered_query_with_a_prompt_is_the_registered_one(compiled: UserEncoder) -> None:
    encoder = compiled.with_layout("compiled")
    encoder.set_prompt("soft", torch.randn(4, encoder.model.backbone.hidden))
    asked = ScenarioSettings(query="Milk?", prompt="soft")
    encoder.add_scenario("asked", asked)
    users = [window(f"u{i}", random_rows(i, 50)) for i in range(2)]
    anchor = encoder.anchor(asked)
    assert anchor.id == encoder.model_id("asked")
    got = encoder.encode_anchors(users, [anchor])
    np.testing.assert_allclose(got, encoder.encode_from_scratch(users, ["asked"]), atol=1e-6)
    encoder.remove_scenario("asked")
    del encoder.model.prompts["soft"]  # the layouts share their weights
    np.testing.assert_allclose(encoder.encode_anchors(users, [anchor]), got, atol=1e-6)


def test_training_sees_what_is_served(compiled: UserEncoder) -> None:
    """Segments with gradients, compiled within the graph: the states of the encoder's own compiled anchors."""
    model, names = compiled.model, ["churn", "milk"]
    anchors = [compiled._anchors[name] for name in names]
    users = [prepare(window(f"u{i}", random_rows(i, n)), MODALITIES, DIM) for i, n in enumerate([0, 1, 30, 200])]
    own = [anchor.tokens.clone().requires_grad_() for anchor in anchors]
    tail = tails.build_compiled(model.backbone, own, LEAD, [anchor.query for anchor in anchors])
    states = user_states(model, users, None, tail, None).states
    served = compiled.tail(names)
    assert served is not None
    with torch.inference_mode():
        wanted = user_states(model, users, None, served, None).states
    assert torch.allclose(states, wanted, atol=2e-5)
    # one scenario's states move with its own tokens, each of them, and with no other's
    states.view(len(users), len(names), -1)[:, 0].square().sum().backward()
    assert own[0].grad is not None
    assert own[0].grad.abs().sum(1).min() > 0
    assert own[1].grad is None or not own[1].grad.any()


def test_gradients_are_those_of_differences(compiled: UserEncoder) -> None:
    """Through the compiled keys and values."""
    encoder = UserEncoder(ModelSettings(device="cpu", kv_pool_bytes=0), MODALITIES, {}, DIM)
    model = encoder.model
    users = [prepare(window("u", random_rows(2, 30)), MODALITIES, DIM)]
    query = compiled.anchor(EMPTY).query
    direction = torch.randn(model.backbone.hidden, generator=torch.Generator().manual_seed(1))
    own = segments([4], model.backbone.hidden)[0].requires_grad_()

    def loss(x: Tensor) -> Tensor:
        tail = tails.build_compiled(model.backbone, [x], LEAD, [query])
        return (user_states(model, users, None, tail, None).states.double() @ direction.double()).sum()

    (gradient,) = torch.autograd.grad(loss(own), own)
    step = torch.zeros_like(own)
    step[1] = direction * 0.01
    difference = (loss(own + step) - loss(own - step)).item() / 2
    assert difference == pytest.approx((gradient * step).sum().item(), rel=0.02, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=40), st.integers(1, 20_000))
def test_users_of_one_call_are_of_about_equal_length(lengths: list[int], keys: int) -> None:
    found = list(runs(lengths, keys))
    assert [found[0].start, found[-1].stop] == [0, len(lengths)]
    assert all(a.stop == b.start for a, b in pairwise(found))
    for each in found:
        own = lengths[each]
        assert max(own) <= min(own) * 1.25 + 64
        assert len(own) == 1 or max(own) * len(own) <= keys
