"""The naive twin: one user, stock transformers with a cache of concatenated chunks and a 4-D mask, no cleverness."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from encoder.forward import chunks
from encoder.forward.plan import additive
from encoder.forward.user_encoder import UserEncoder
from encoder.forward.user_tokens import prepare
from encoder.model import features
from store.base.settings import ModalitySettings
from store.window.user_window import UserWindow


def event_tokens(encoder: UserEncoder, window: UserWindow, name: str, settings: ModalitySettings) -> Tensor:
    rows = window.modalities[name]
    values, present = features.numbers(rows.numbers, settings.number_width)
    vectors = torch.from_numpy(rows.vectors.astype(np.float32))
    return encoder.model.adapters(name).events(vectors, torch.from_numpy(values), torch.from_numpy(present))


def summary_tokens(encoder: UserEncoder, window: UserWindow, modalities: dict[str, ModalitySettings]) -> Tensor:
    model = encoder.model
    user = prepare(window, modalities, encoder._dim)
    adapters = [*(model.adapters(name).summary for name in modalities), model.user]
    tokens, at = [], 0
    for adapter, mean, match in zip(adapters, user.means, user.match.tolist(), strict=True):
        width = adapter.inner.in_features - encoder._dim
        own = torch.from_numpy(user.stats[at : at + width])
        at += width
        inner = adapter.inner(torch.cat([adapter.norm(torch.from_numpy(mean)), own]))
        for cosine, name in zip(match, modalities, strict=True):
            inner = inner + cosine * model.adapters(name).matched
        tokens.append(adapter.outer(torch.nn.functional.gelu(inner)))
    return torch.stack(tokens)


def segment(encoder: UserEncoder, window: UserWindow, scenario: str, modalities: dict[str, ModalitySettings]) -> Tensor:
    anchor = encoder._anchors[scenario]
    tokens = anchor.tokens.clone()
    for name in modalities:
        own = window.modalities.get(name)
        if own is not None and len(own.ts):
            mean = torch.from_numpy(own.vectors.astype(np.float32)).mean(0)
            tokens[-1] += mean @ anchor.query / mean.norm() * encoder.model.adapters(name).asked
    return tokens


@torch.no_grad()
def chunked(
    encoder: UserEncoder,
    window: UserWindow,
    scenarios: Sequence[str],
    modalities: dict[str, ModalitySettings],
    *,
    compiled: bool = False,
) -> np.ndarray:
    """Embeddings (scenarios, 128) by our layouts: each chunk through the plain model alone, then one tail per scenario.

    Positions count from "now": only differences matter, and the plain model computes its angles in float32.

    Args:
        compiled: soft prompt and query see nothing but themselves.
    """
    lm = encoder.model.lm
    caches = []
    now = features.hours(window.as_of)
    for name, settings in modalities.items():
        if name not in window.modalities:
            continue
        x = event_tokens(encoder, window, name, settings)
        hours = torch.from_numpy(features.hours(window.modalities[name].ts) - now)
        cuts = chunks.cut(window.modalities[name].names)
        for a, b in pairwise(cuts.tolist()):
            cache = DynamicCache(config=lm.config)
            lm(inputs_embeds=x[None, a:b], position_ids=hours[None, a:b], past_key_values=cache, use_cache=True)
            caches.append(cache)
    summaries = summary_tokens(encoder, window, modalities)
    out = []
    for scenario in scenarios:
        x = torch.cat([summaries, segment(encoder, window, scenario, modalities)])
        past = DynamicCache(config=lm.config)
        for i in range(lm.config.num_hidden_layers) if caches else ():
            past.update(
                torch.cat([c.layers[i].keys for c in caches], 2), torch.cat([c.layers[i].values for c in caches], 2), i
            )
        positions = torch.arange(len(x))
        before = past.get_seq_length()
        seen = torch.ones(len(x), before + len(x), dtype=torch.bool).tril(before)
        if compiled:
            seen[len(summaries) : -1, : before + len(summaries)] = False
        states = lm(
            inputs_embeds=x[None],
            position_ids=positions[None],
            past_key_values=past,
            attention_mask=additive(seen, torch.float32)[None, None],
        ).last_hidden_state
        out.append(encoder.model.embed(states[0, -1]))
    return torch.stack(out).numpy()


@torch.no_grad()
def causal(
    encoder: UserEncoder, window: UserWindow, scenarios: Sequence[str], modalities: dict[str, ModalitySettings]
) -> np.ndarray:
    """Embeddings (scenarios, 128) by the paper's layout: one plain forward per scenario, default positions."""
    summaries = summary_tokens(encoder, window, modalities)
    events = [
        event_tokens(encoder, window, name, settings)
        for name, settings in modalities.items()
        if name in window.modalities
    ]
    prefix = torch.cat([summaries[-1:], summaries[:-1], *events])
    out = []
    for scenario in scenarios:
        x = torch.cat([prefix, segment(encoder, window, scenario, modalities)])
        out.append(encoder.model.embed(encoder.model.lm(inputs_embeds=x[None]).last_hidden_state[0, -1]))
    return torch.stack(out).numpy()
