"""What is kept of users gives the vectors that are served, with a prompt and without, in every layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from encoder.forward.user_encoder import UserEncoder
from encoder.learning.tuning.states import UserStates
from encoder.model.settings import Layout, ModelSettings
from store.base.settings import ScenarioSettings
from tests.support.windows import DIM, MODALITIES, random_rows, window

QUERY = "Will this user default?"
WINDOWS = [window(f"u{n}", random_rows(n, rows)).at(1_707_000_000_000) for n, rows in enumerate((3, 40, 1, 300, 17))]


@pytest.mark.parametrize("event_tokens", [True, False])
@pytest.mark.parametrize("layout", ["compiled", "chunked", "causal"])
def test_vectors_are_those_that_are_served(layout: Layout, event_tokens: bool) -> None:
    settings = ModelSettings(
        threads=1, device="cpu", kv_pool_bytes=0, layout=layout, event_tokens=event_tokens, checkpoint="none"
    )
    encoder = UserEncoder(settings, MODALITIES, {"plain": ScenarioSettings(query=QUERY)}, DIM)
    prompt = torch.randn(6, encoder.model.backbone.hidden, generator=torch.Generator().manual_seed(0))
    encoder.set_prompt("tuned", prompt)
    encoder.add_scenario("tuned", ScenarioSettings(query=QUERY, prompt="tuned"))
    served = encoder.encode_from_scratch(WINDOWS, ["plain", "tuned"])
    states = UserStates(encoder.model, MODALITIES, settings, QUERY)
    plain = np.concatenate([states.add(WINDOWS[:2]), states.add(WINDOWS[2:])])
    np.testing.assert_allclose(plain, served[:, 0], atol=1e-5)
    half = 2e-3
    np.testing.assert_allclose(states.vectors(None), served[:, 0], atol=half)
    np.testing.assert_allclose(states.vectors(prompt), served[:, 1], atol=half)
    assert np.abs(served[:, 0] - served[:, 1]).max() > 10 * half
    # in any order, and alone
    some = states.read(np.array([3, 0]), states.tail(prompt)).detach().numpy()
    np.testing.assert_allclose(some, states.vectors(prompt)[[3, 0]], atol=1e-5)
    assert states.bytes > 0


@pytest.mark.parametrize("layout", ["compiled", "chunked", "causal"])
def test_the_gradient_is_that_of_the_vectors(layout: Layout) -> None:
    """By differences: the path through the anchor's keys and values is not cut."""
    settings = ModelSettings(threads=1, device="cpu", kv_pool_bytes=0, layout=layout, checkpoint="none")
    encoder = UserEncoder(settings, MODALITIES, {}, DIM)
    states = UserStates(encoder.model, MODALITIES, settings, QUERY)
    states.add(WINDOWS)
    rows = np.arange(len(WINDOWS))
    start = torch.randn(2, encoder.model.backbone.hidden, generator=torch.Generator().manual_seed(1))
    aim = torch.nn.functional.normalize(torch.randn(128, generator=torch.Generator().manual_seed(2)), dim=0)
    prompt = torch.nn.Parameter(start.clone())
    (states.read(rows, states.tail(prompt)) @ aim).sum().backward()
    assert prompt.grad is not None
    assert bool((prompt.grad.norm(dim=1) > 0).all())
    along = prompt.grad / prompt.grad.norm()
    step = 0.5
    with torch.no_grad():
        up, down = (float((states.read(rows, states.tail(start + s * along)) @ aim).sum()) for s in (step, -step))
    assert (up - down) / (2 * step) == pytest.approx(float(prompt.grad.norm()), rel=0.05)
