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
from encoder.model.adapters import BUCKETS, NUMBER_MEAN, NUMBER_SCALE, STANDARD_BOUND, number_names, spoken
from encoder.statistics.table import ACTIVITY, NUMBER, TEXTS
from store.base.settings import ModalitySettings
from store.window.user_window import UserWindow


def event_tokens(encoder: UserEncoder, window: UserWindow, name: str, settings: ModalitySettings) -> Tensor:
    rows = window.modalities[name]
    values, present = features.numbers(rows.numbers, settings.number_width)
    adapters = encoder.model.adapters
    own, shared = adapters.residuals(name), adapters.event
    of = encoder._query_vectors.of(spoken(name)) * adapters.dim**0.5
    out = []
    for vector, told, there in zip(rows.vectors.astype(np.float32), values, present, strict=True):
        normed = shared.norm(torch.from_numpy(vector))
        inner = shared.inner(normed) + shared.name(torch.from_numpy(of))
        inputs = [normed]
        for number, value, have in zip(number_names(settings), told.tolist(), there.tolist(), strict=True):
            called = torch.from_numpy(encoder._query_vectors.of(spoken(number)) * adapters.dim**0.5)
            parts = [(value - NUMBER_MEAN) / NUMBER_SCALE, *(np.tanh(value - bucket) for bucket in BUCKETS)]
            each = torch.tensor([*(part * have for part in parts), have], dtype=torch.float32)
            inner = inner + shared.number(each) * (1 + shared.gate(called)) + have * shared.shift(called)
            inputs.append(each)
        out.append(shared.outer(torch.nn.functional.gelu(inner + own.event(torch.cat(inputs)))))
    return torch.stack(out)


def _standard(raw: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return ((raw - mean) / scale).clamp(-STANDARD_BOUND, STANDARD_BOUND)


def summary_tokens(encoder: UserEncoder, window: UserWindow, modalities: dict[str, ModalitySettings]) -> Tensor:
    adapters = encoder.model.adapters
    shared, user = adapters.summary, prepare(window, modalities, encoder._dim)
    names = {name: torch.from_numpy(encoder._query_vectors.of(spoken(name)) * adapters.dim**0.5) for name in modalities}
    tokens, inners, at = [], [], 0
    fixed = len(ACTIVITY) + len(TEXTS)
    for i, (name, settings) in enumerate(modalities.items()):
        raw = torch.from_numpy(user.stats[at : at + fixed + len(number_names(settings)) * len(NUMBER)])
        stats = _standard(raw[:fixed], shared.mean, shared.scale)
        at += fixed
        normed = shared.norm(torch.from_numpy(user.means[i]))
        inner = shared.inner(torch.cat([normed, stats])) + shared.name(names[name])
        for number in number_names(settings):
            called = torch.from_numpy(encoder._query_vectors.of(spoken(number)) * adapters.dim**0.5)
            raw_number = torch.from_numpy(user.stats[at : at + len(NUMBER)])
            each = _standard(raw_number, shared.number_mean, shared.number_scale)
            at += len(NUMBER)
            inner = inner + shared.number(each) * (1 + shared.gate(called))
        own = adapters.residuals(name)
        inner = inner + own.summary(torch.cat([normed, _standard(raw, own.mean, own.scale)]))
        for cosine, other in zip(user.match[i].tolist(), modalities, strict=True):
            inner = inner + cosine * (shared.matched(names[other]) + adapters.residuals(other).matched)
        inners.append(torch.nn.functional.gelu(inner))
        tokens.append(shared.outer(inners[-1]))
    tokens.append(
        adapters.user(
            adapters.user.norm(torch.from_numpy(user.means[-1]))[None],
            torch.from_numpy(user.stats[at:])[None],
            torch.stack(inners)[None],
        )[0]
    )
    return torch.stack(tokens)


def segment(encoder: UserEncoder, window: UserWindow, scenario: str, modalities: dict[str, ModalitySettings]) -> Tensor:
    anchor = encoder._anchors[scenario]
    tokens = anchor.tokens.clone()
    for name, asked in zip(modalities, encoder.model.adapters.asked, strict=True):
        own = window.modalities.get(name)
        if own is not None and len(own.ts):
            mean = torch.from_numpy(own.vectors.astype(np.float32)).mean(0)
            tokens[-1] += mean @ anchor.query / mean.norm() * asked
    tokens[-1] += summary_tokens(encoder, window, modalities)[-1] * encoder.model.adapters.gates(anchor.query[None])[0]
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
