"""Attention of one planned forward: chunks causal and alone, tails over their user's chunks under one mask."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, cat
from torch.nn.functional import scaled_dot_product_attention as attend

from encoder.plan import Plan


class KeysValues(Protocol):
    """Where keys and values of chunk tokens are read from."""

    def put(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take those of the forward's tokens, (tokens, kv_heads, head_dim); returns what source indices point into."""


class FlatKeysValues:
    """No cache: the source is the forward's own tokens. Differentiable."""

    def put(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The tensors given."""
        return keys, values


class PlannedAttention:
    """`backbone.Attention` of a plan."""

    def __init__(self, plan: Plan, source: KeysValues) -> None:
        self._plan = plan
        self._source = source

    def all(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `backbone.Attention.all`."""
        plan, n = self._plan, self._plan.new_tokens
        keys, values = self._source.put(layer, k, v)
        parts = []
        if plan.fresh is not None:
            # Right-padded: what follows a chunk's end is seen by no token before it.
            cq, ck, cv = (t[plan.fresh].transpose(1, 2) for t in (q, k, v))
            parts.append(attend(cq, ck, cv, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(0, 1))
        if plan.extended is not None:
            queries, index, mask = plan.extended
            seen = grouped(q[queries], keys[index], values[index], mask)
            parts.append(seen.flatten(0, 1))
        tail_q = _per_user(q[n:], plan.users)
        parts.append(self._tail(tail_q, keys, values, k, v, plan.mask).flatten(0, 1))
        return cat(parts)[plan.restore]

    def outputs(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `backbone.Attention.outputs`."""
        plan = self._plan
        keys, values = self._source.put(layer, k, v)
        tail_q = _per_user(q, plan.users)
        return self._tail(tail_q, keys, values, k, v, plan.output_mask).flatten(0, 1)

    def _tail(self, q: Tensor, keys: Tensor, values: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        plan, n = self._plan, self._plan.new_tokens
        all_keys = cat([keys[plan.prefix], _per_user(k[n:], plan.users)], 1)
        all_values = cat([values[plan.prefix], _per_user(v[n:], plan.users)], 1)
        return grouped(q, all_keys, all_values, mask)


def grouped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Grouped-query attention under a mask, without repeating keys.

    CUDA's fused kernels take no mask together with groups: there the query heads of a key head are laid end to end.

    Args:
        q: (b, t, heads, d). k, v: (b, s, kv_heads, d).
        mask: additive (b, 1, t, s), or (b, 1, heads / kv_heads * t, s) when laid end to end.

    Returns:
        (b, t, heads, d).
    """
    b, t, heads, d = q.shape
    keys, values = k.transpose(1, 2), v.transpose(1, 2)
    if mask.shape[2] == t:
        return attend(q.transpose(1, 2), keys, values, attn_mask=mask, enable_gqa=True).transpose(1, 2)
    kv_heads = k.shape[2]
    group = heads // kv_heads
    q = q.view(b, t, kv_heads, group, d).permute(0, 2, 3, 1, 4).reshape(b, kv_heads, group * t, d)
    out = attend(q, keys, values, attn_mask=mask)
    return out.view(b, kv_heads, group, t, d).permute(0, 3, 1, 2, 4).reshape(b, t, heads, d)


def _per_user(x: Tensor, users: int) -> Tensor:
    return x.reshape(users, -1, *x.shape[1:])
