"""Attention of one planned forward on a CPU: no mask and no padding over events, each user's tail in two parts.

Every tail token sees all of its user's events: that part needs no mask. Inside the tail a token sees the summaries and
its own segment: small dense blocks. The two are put together by their log-sum-exp, which is the softmax over both.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, cat, split_with_sizes

from encoder.forward.attention import KeysValues, chunk_parts, per_user
from encoder.forward.plan import Plan, additive
from encoder.forward.tail import Tail
from encoder.model.backbone import Backbone

# What scaled_dot_product_attention runs on a CPU, called by name because it also returns the log-sum-exp.
flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001


class SplitAttention:
    """`backbone.Attention` of a plan. Not differentiable."""

    def __init__(self, plan: Plan, source: KeysValues, tail: Tail, backbone: Backbone) -> None:
        self._plan = plan
        self._source = source
        self._lengths = [len(own) for own in plan.prefixes]
        self._prefix = torch.from_numpy(np.concatenate(plan.prefixes))
        groups = tail.groups
        ends = len(groups.queries) - len(tail.outputs)  # nothing is read out of the summaries
        self._queries, self._rows = groups.queries.reshape(-1), groups.rows
        self._keys, self._output_keys = groups.keys, groups.keys[ends:]
        # padding repeats a segment's last token, which is the one that is read
        self._mask, self._output_mask = (
            additive(allowed, backbone.dtype).repeat(plan.users, 1, 1)[:, None]
            for allowed in (groups.allowed, groups.allowed[ends:, -1:])
        )

    def all(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `backbone.Attention.all`."""
        plan, n = self._plan, self._plan.new_tokens
        keys, values = self._source.put(layer, k, v)
        parts = chunk_parts(plan, q, k, v, keys, values)
        tail_q = per_user(q[n:], plan)
        inner, inner_lse = self._segments(tail_q.index_select(1, self._queries), k[n:], v[n:], self._keys, self._mask)
        inner, inner_lse = inner.index_select(1, self._rows), inner_lse.index_select(1, self._rows)
        parts.append(self._merge(tail_q, inner, inner_lse, keys, values))
        return cat(parts)

    def outputs(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `backbone.Attention.outputs`."""
        n = self._plan.new_tokens
        keys, values = self._source.put(layer, k, v)
        tail_q = per_user(q, self._plan)
        inner, inner_lse = self._segments(tail_q, k[n:], v[n:], self._output_keys, self._output_mask)
        return self._merge(tail_q, inner, inner_lse, keys, values)

    def _segments(self, q: Tensor, k: Tensor, v: Tensor, places: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Attention inside the tails.

        Args:
            q: (users, groups * length, heads, d). k, v: of all tails, (users * tail, kv_heads, d).
            places: (groups, s). mask: (users * groups, 1, length, s).

        Returns:
            Outputs (users, groups * length, heads, d) and log-sum-exp (users, groups * length, heads).
        """
        users, batch = self._plan.users, len(mask)
        heads, d = q.shape[2:]
        flat = places.reshape(-1)
        own_k, own_v = (
            per_user(x, self._plan).index_select(1, flat).view(batch, places.shape[1], -1, d).transpose(1, 2)
            for x in (k, v)
        )
        out, lse = flash(q.reshape(batch, -1, heads, d).transpose(1, 2), own_k, own_v, attn_mask=mask)
        return out.transpose(1, 2).reshape(q.shape), lse.transpose(1, 2).reshape(users, -1, heads)

    def _merge(self, q: Tensor, inner: Tensor, inner_lse: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Add what each tail sees of its events. q, inner: (users, t, heads, d) → (users * t, heads, d)."""
        users, t, heads, d = q.shape
        kv_heads = keys.shape[1]
        group = heads // kv_heads
        # Query heads of a key head are laid end to end: longer blocks, and no key is repeated.
        folded = q.view(users, t, kv_heads, group, d).permute(0, 2, 3, 1, 4).reshape(users, kv_heads, group * t, d)
        own_k = split_with_sizes(keys.index_select(0, self._prefix), self._lengths)
        own_v = split_with_sizes(values.index_select(0, self._prefix), self._lengths)
        out = q.new_zeros(users, kv_heads, group, t, d)
        lse = inner_lse.new_full((users, kv_heads, group, t), float("-inf"))
        for u, length in enumerate(self._lengths):
            if length:
                seen, total = flash(folded[u : u + 1], own_k[u].transpose(0, 1)[None], own_v[u].transpose(0, 1)[None])
                out[u], lse[u] = seen.view(kv_heads, group, t, d), total.view(kv_heads, group, t)
        outer = out.permute(0, 3, 1, 2, 4).reshape(q.shape)
        share = torch.sigmoid(lse.permute(0, 3, 1, 2).reshape(inner_lse.shape) - inner_lse)
        return torch.lerp(inner, outer, share.to(q.dtype)[..., None]).flatten(0, 1)
