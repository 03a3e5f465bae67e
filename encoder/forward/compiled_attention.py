"""Attention of one planned forward in the layout `compiled`, on a CPU: two calls a layer, however many users.

Tails are short, so a user's events, summaries and read-outs are one small block under a mask, padded to the longest of
a few users of about equal length. What read-outs see of their anchors is the same keys for all users: one block per
scenario, its rows the users, their queries turned back by the user's time. The two are put together by their
log-sum-exp, which is the softmax over both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, cat

from encoder.forward.attention import KeysValues, chunk_parts, per_user
from encoder.forward.plan import Ints, Plan, additive, padded
from encoder.forward.split_attention import flash
from encoder.forward.tail import Tail
from encoder.model.backbone import Backbone, rotate

RUN_BYTES = 2 << 20
"""Keys of one call: beyond it they leave the caches."""
UNSEEN = -1e30
"""Masks an anchor's padding: finite, as an anchor without any token must give no NaN, and weigh nothing."""


class _Run(NamedTuple):
    """Users of one call. places: int64 (users * width,), their chunk tokens and, last, room for the tail's own.

    mask: additive (users, 1, tail, width).
    """

    users: slice
    places: Tensor
    mask: Tensor


class CompiledAttention:
    """`backbone.Attention` of a plan. Not differentiable."""

    def __init__(self, plan: Plan, source: KeysValues, tail: Tail, backbone: Backbone) -> None:
        assert tail.compiled is not None
        self._plan = plan
        self._source = source
        self._length = tail.length
        own = additive(tail.allowed, backbone.dtype)
        width = RUN_BYTES // (backbone.kv_heads * backbone.head_dim * backbone.dtype.itemsize)
        self._runs = [_run(plan.prefixes, users, own) for users in runs([len(p) for p in plan.prefixes], width)]
        self._keys = [keys.transpose(1, 2) for keys in tail.compiled.keys]
        self._values = [values.transpose(1, 2) for values in tail.compiled.values]
        seen = tail.compiled.seen[:, None, None]
        mask = torch.zeros(seen.shape, dtype=backbone.dtype).masked_fill_(~seen, UNSEEN)
        self._mask = mask.expand(-1, -1, plan.users, -1)
        self._back = [t[:, None] for t in backbone.turn(-plan.now)]

    def all(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `backbone.Attention.all`."""
        keys, values = self._source.put(layer, k, v)
        parts = chunk_parts(self._plan, q, k, v, keys, values)
        tail_q = per_user(q[self._plan.new_tokens :], self._plan)
        parts.append(self._read(layer, tail_q, keys, values, k, v))
        return cat(parts) if len(parts) > 1 else parts[0]

    def outputs(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `backbone.Attention.outputs`."""
        keys, values = self._source.put(layer, k, v)
        return self._read(layer, per_user(q, self._plan), keys, values, k, v)

    def _read(self, layer: int, q: Tensor, keys: Tensor, values: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q: (users, t, heads, d), of all the tail or of its read-outs → (users * t, heads, d)."""
        t = q.shape[1]
        own_k, own_v = (per_user(x[self._plan.new_tokens :], self._plan) for x in (k, v))
        out, lse = torch.empty_like(q), q.new_empty((*q.shape[:3],), dtype=torch.float32)
        for users, places, mask in self._runs:
            seen_k, seen_v = (_placed(x, places, own[users]) for x, own in ((keys, own_k), (values, own_v)))
            found, total = flash(q[users].transpose(1, 2), seen_k, seen_v, attn_mask=mask[:, :, self._length - t :])
            out[users], lse[users] = found.transpose(1, 2), total.transpose(1, 2)
        first = t - len(self._keys[layer])  # read-outs come last
        asked = rotate(q[:, first:], *self._back).permute(1, 2, 0, 3)
        found, total = flash(asked, self._keys[layer], self._values[layer], attn_mask=self._mask)
        share = torch.sigmoid(total.permute(2, 0, 1) - lse[:, first:]).to(q.dtype)
        out[:, first:].lerp_(found.permute(2, 0, 1, 3), share[..., None])
        return out.flatten(0, 1)


def runs(lengths: Sequence[int], keys: int) -> Iterator[slice]:
    """Consecutive users who are computed in one call: of about equal length, and with so many keys together."""
    first = 0
    shortest = longest = 0
    for u, length in enumerate(lengths):
        low, high = (min(shortest, length), max(longest, length)) if u > first else (length, length)
        if u > first and (high > low + low // 4 + 64 or high * (u + 1 - first) > keys):
            yield slice(first, u)
            first, low, high = u, length, length
        shortest, longest = low, high
    yield slice(first, len(lengths))


def _run(prefixes: Sequence[Ints], users: slice, own: Tensor) -> _Run:
    """own: additive (tail, tail)."""
    t = len(own)
    index, seen = padded(prefixes[users], t)
    count, longest = index.shape
    mask = own.new_zeros(count, 1, t, longest + t)
    mask[..., :longest].masked_fill_(~torch.from_numpy(seen)[:, None, None], float("-inf"))
    mask[..., longest:] = own
    places = torch.zeros(count, longest + t, dtype=torch.int64)
    places[:, :longest] = torch.from_numpy(index)
    return _Run(users, places.view(-1), mask)


def _placed(source: Tensor, places: Tensor, own: Tensor) -> Tensor:
    """Rows of `source` by place, with a tail's own as the last of each user's: (users, kv_heads, width, d)."""
    rows = source.index_select(0, places).view(len(own), -1, *source.shape[1:])
    rows[:, rows.shape[1] - own.shape[1] :] = own
    return rows.transpose(1, 2)
