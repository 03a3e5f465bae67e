"""Compiled anchors: a scenario's [soft prompt][query] encoded once, alone, its keys and values kept per layer.

No token of it sees a user, so no user's refresh computes it again. Its positions are those of a tail without the
user's time: rotary embedding is relative, so whoever reads it turns its query back by the user's time, or the keys on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.functional import scaled_dot_product_attention as attend
from torch.nn.utils.rnn import pad_sequence

from encoder.model.backbone import Backbone


class Compiled(NamedTuple):
    """Keys and values of scenarios' anchors, padded to the longest.

    keys, values: per layer, (scenarios, width, kv_heads, head_dim). seen: bool (scenarios, width), what is no padding.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    seen: Tensor

    @property
    def width(self) -> int:
        """Tokens of the longest, at least one."""
        return self.seen.shape[1]


class _Alone:
    """`backbone.Attention` of segments of one width, each causal and alone, that keeps what a reader needs."""

    def __init__(self, segments: int) -> None:
        self._segments = segments
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def all(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self._keep(k, v)
        q, k, v = (self._each(t).transpose(1, 2) for t in (q, k, v))
        return attend(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(0, 1)

    def outputs(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Nobody reads the last layer's states."""
        self._keep(k, v)
        return q

    def _keep(self, k: Tensor, v: Tensor) -> None:
        self.keys.append(self._each(k))
        self.values.append(self._each(v))

    def _each(self, x: Tensor) -> Tensor:
        return x.reshape(self._segments, -1, *x.shape[1:])


def compile_segments(backbone: Backbone, segments: Sequence[Tensor], lead: int) -> Compiled:
    """Encode segments of [soft prompt][query] tokens, each (tokens, hidden). Differentiable.

    Args:
        lead: position of each segment's first token, counted from the tail's first.
    """
    device = segments[0].device
    lengths = torch.tensor([len(segment) for segment in segments], device=device)
    width = max(1, *(len(segment) for segment in segments))
    x = pad_sequence(list(segments), batch_first=True)
    x = pad(x, (0, 0, 0, width - x.shape[1])).to(backbone.dtype)
    places = torch.arange(width, device=device)
    positions = (lead + places.double()).repeat(len(segments))
    alone = _Alone(len(segments))
    backbone.run(x.flatten(0, 1), positions, alone, places[:1])
    return Compiled(tuple(alone.keys), tuple(alone.values), places < lengths[:, None])


def join(parts: Sequence[Compiled]) -> Compiled:
    """Scenarios of several, in order."""
    width = max(part.width for part in parts)
    keys, values = (
        tuple(
            torch.cat([pad(own, (0, 0, 0, 0, 0, width - own.shape[1])) for own in layer])
            for layer in zip(*side, strict=True)
        )
        for side in ([part.keys for part in parts], [part.values for part in parts])
    )
    return Compiled(keys, values, torch.cat([pad(part.seen, (0, width - part.width)) for part in parts]))
