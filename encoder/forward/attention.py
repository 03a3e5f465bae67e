"""Attention of one planned forward: chunks causal and alone, tails over their user's chunks under one mask."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, cat
from torch.nn.functional import scaled_dot_product_attention as attend

from encoder.forward.plan import Plan, padded_prefixes
from encoder.forward.tail import Tail
from encoder.model.backbone import Backbone, rotate


class KeysValues(Protocol):
    """Where keys and values of chunk tokens are read from."""

    def put(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take those of the forward's tokens, (tokens, kv_heads, head_dim); returns what source indices point into."""


class FlatKeysValues:
    """No cache: the source is the forward's own tokens. Differentiable."""

    def put(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The tensors given."""
        return keys, values


class DenseAttention:
    """`backbone.Attention` of a plan, all users at once: keys padded to the longest, one mask. Differentiable."""

    def __init__(self, plan: Plan, source: KeysValues, tail: Tail, backbone: Backbone) -> None:
        self._plan = plan
        self._source = source
        self._compiled = tail.compiled
        self._turn = () if tail.compiled is None else tuple(t[:, None] for t in backbone.turn(plan.now))
        self._prefix, mask = padded_prefixes(plan.prefixes, tail, backbone.dtype, tail.allowed.device)
        self._mask = mask.repeat(1, 1, plan.fold, 1)
        self._output_mask = mask[:, :, tail.outputs].repeat(1, 1, plan.fold, 1)

    def all(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `backbone.Attention.all`."""
        keys, values = self._source.put(layer, k, v)
        parts = chunk_parts(self._plan, q, k, v, keys, values)
        tail_q = per_user(q[self._plan.new_tokens :], self._plan)
        parts.append(self._tail(layer, tail_q, keys, values, k, v, self._mask))
        return cat(parts)

    def outputs(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `backbone.Attention.outputs`."""
        keys, values = self._source.put(layer, k, v)
        return self._tail(layer, per_user(q, self._plan), keys, values, k, v, self._output_mask)

    def _tail(self, layer: int, q: Tensor, keys: Tensor, values: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        n = self._plan.new_tokens
        all_keys = [keys[self._prefix], per_user(k[n:], self._plan)]
        all_values = [values[self._prefix], per_user(v[n:], self._plan)]
        if self._compiled is not None:  # an anchor stands where its reader does: its keys are turned to "now"
            all_keys.append(rotate(self._compiled.keys[layer].flatten(0, 1), *self._turn))
            own = self._compiled.values[layer].flatten(0, 1)
            all_values.append(own.expand(self._plan.users, *own.shape))
        return grouped(q, cat(all_keys, 1), cat(all_values, 1), mask).flatten(0, 1)


def chunk_parts(plan: Plan, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> list[Tensor]:
    """Attention of the new event tokens, (new tokens, heads, d), in flat order; nothing when there are none.

    Args:
        q, k, v: of the forward's tokens. keys, values: what source indices point into.
    """
    parts = []
    for index in plan.fresh:
        # Right-padded: what follows a chunk's end is seen by no token before it.
        cq, ck, cv = (t[index].transpose(1, 2) for t in (q, k, v))
        parts.append(attend(cq, ck, cv, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(0, 1))
    if plan.extended is not None:
        queries, index, mask = plan.extended
        parts.append(grouped(q[queries], keys[index], values[index], mask).flatten(0, 1))
    return [cat(parts)[plan.restore]] if parts else []


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


def per_user(x: Tensor, plan: Plan) -> Tensor:
    """(users * n, …) → (users, n, …)."""
    return x.reshape(plan.users, -1, *x.shape[1:])
