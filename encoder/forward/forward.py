"""From planned users to the states of their <USER_EMB> tokens: embeds what is new, runs the backbone once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from encoder.forward import plan
from encoder.forward.attention import DenseAttention, FlatKeysValues, KeysValues
from encoder.forward.causal import causal
from encoder.forward.compiled_attention import CompiledAttention
from encoder.forward.kv_pool import KvPool, Lease, PagedKeysValues
from encoder.forward.plan import EventRows, Plan
from encoder.forward.split_attention import SplitAttention
from encoder.forward.tail import Tail
from encoder.forward.user_tokens import UserTokens
from encoder.model import features
from encoder.model.user_model import UserModel


class States(NamedTuple):
    """states: (users * scenarios, hidden), user-major, of every <USER_EMB>. plan: what was computed."""

    states: Tensor
    plan: Plan


def user_states(
    model: UserModel,
    users: Sequence[UserTokens],
    leases: Sequence[Lease] | None,
    tail: Tail,
    pool: KvPool | None,
    source: KeysValues | None = None,
) -> States:
    """One forward. Differentiable in the model's parameters when there are no leases.

    Args:
        leases: the users' pages in `pool`, which is written; None = everything is computed, nothing kept.
        tail: with lead 0 the layout is the paper's causal one, else ours.
        source: instead of the pool or the forward's own, where keys and values go; without leases.
    """
    backbone = model.backbone
    modalities = len(model.modalities)
    layout = plan.chunked(users, leases, tail, modalities) if tail.lead else causal(users, tail, modalities)
    device = tail.tokens.device
    fold = backbone.heads // backbone.kv_heads if device.type == "cuda" else 1
    planned = plan.finish(layout, tail, fold=fold, dtype=model.dtype, device=device)
    x = embed(model, users, planned, tail)
    if source is None:
        source = FlatKeysValues() if planned.slots is None or pool is None else PagedKeysValues(pool, planned.slots)
    kind = _attention(tail, device)
    states = backbone.run(x, planned.positions, kind(planned, source, tail, backbone), planned.outputs)
    return States(states, planned)


def _attention(
    tail: Tail, device: torch.device
) -> type[DenseAttention] | type[SplitAttention] | type[CompiledAttention]:
    if device.type != "cpu" or torch.is_grad_enabled():
        return DenseAttention
    return SplitAttention if tail.compiled is None else CompiledAttention


def embed(model: UserModel, users: Sequence[UserTokens], planned: Plan, tail: Tail) -> Tensor:
    """All tokens' embeddings in flat order, (tokens, hidden), in the language model's type."""
    device = tail.tokens.device
    tokens = [_event_tokens(model, index, rows, device) for index, rows in enumerate(planned.events) if rows.places]
    means = torch.from_numpy(np.stack([user.means for user in users])).to(device)
    summaries = summary_tokens(model, users, means)
    tokens += [summaries.flatten(0, 1), segment_tokens(model, means[:, :-1], summaries[:, -1], tail)]
    return torch.cat(tokens)[planned.order].to(model.dtype)


def _event_tokens(model: UserModel, modality: int, rows: EventRows, device: torch.device) -> Tensor:
    k = model.adapters.widths[modality]
    numbers = [features.numbers(raw, k) for raw in rows.numbers]
    vectors = torch.from_numpy(np.concatenate(rows.vectors)).to(device).float()
    values = torch.from_numpy(np.concatenate([n.values for n in numbers])).to(device)
    present = torch.from_numpy(np.concatenate([n.present for n in numbers])).to(device)
    return model.adapters.events(modality, vectors, values, present)


def summary_tokens(model: UserModel, users: Sequence[UserTokens], means: Tensor) -> Tensor:
    """(users, modalities + 1, hidden): per user its modalities in order, then the user token.

    means: (users, modalities + 1, dim).
    """
    stats = torch.from_numpy(np.stack([user.stats for user in users])).to(means.device)
    match = torch.from_numpy(np.stack([user.match for user in users])).to(means.device)
    return model.adapters.summaries(means, stats, match)


def segment_tokens(model: UserModel, means: Tensor, user: Tensor, tail: Tail) -> Tensor:
    """(users * segment tokens, hidden): the scenarios' own; each <USER_EMB> is told how far its query meets the user's
    modalities, and of the user token what the query lets through.

    means: (users, modalities, dim). user: (users, hidden).
    """
    cosines = tail.queries @ nn.functional.normalize(means, dim=-1).mT
    tokens = tail.tokens.repeat(len(means), 1, 1)
    tokens[:, tail.outputs - tail.lead] += cosines @ model.adapters.asked + user[:, None] * model.adapters.gates(
        tail.queries
    )
    return tokens.flatten(0, 1)
