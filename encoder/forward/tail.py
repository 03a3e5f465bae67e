"""The end of the sequence: after the summaries, one segment per scenario, all in one forward under one mask.

A segment is [soft prompt][query][<USER_EMB>]. Its tokens see the user's events, the summaries and their own segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

MAX_QUERY_TOKENS = 64


class Groups(NamedTuple):
    """The tail by who sees whom: the summaries (if any) and each scenario's segment, padded to the longest.

    queries: int64 (groups, length), places in the tail. keys: int64 (groups, lead + length), likewise.
    allowed: bool (groups, length, lead + length). rows: int64 (tail,), where a place stands in the flattened queries.
    """

    queries: Tensor
    keys: Tensor
    allowed: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Tail:
    """Scenario segments after `lead` summary tokens (0 in the causal layout, whose summaries stand in front).

    tokens: (length - lead, hidden), the segments' embeddings.
    offsets: float64 (length,), added to the tail's first position; each segment begins right after the summaries.
    allowed: bool (length, length), who sees whom inside the tail.
    outputs: int64 (scenarios,), the place of each <USER_EMB>. groups: `allowed` without what nobody sees.
    queries: float32 (scenarios, dim), unit text vectors of the queries.
    """

    lead: int
    tokens: Tensor
    offsets: Tensor
    allowed: Tensor
    outputs: Tensor
    groups: Groups
    queries: Tensor

    @property
    def length(self) -> int:
        """Tokens of a user's tail."""
        return len(self.offsets)


def build(segments: Sequence[Tensor], lead: int, queries: Sequence[Tensor]) -> Tail:
    """Tail of segments, each (tokens, hidden), after `lead` summary tokens.

    Args:
        queries: (dim,) of each segment, unit length.
    """
    device = segments[0].device
    lengths = [len(segment) for segment in segments]
    segment = torch.cat(
        [torch.full((n,), i, device=device) for i, n in enumerate([lead, *lengths])]  # 0 = the summaries
    )
    step = torch.arange(len(segment), device=device)
    causal = step[:, None] >= step
    allowed = causal & ((segment[:, None] == segment) | (segment == 0))
    places = [torch.arange(lead, dtype=torch.float64, device=device)]
    places += [lead + torch.arange(n, dtype=torch.float64, device=device) for n in lengths]
    ends = lead - 1 + torch.tensor(lengths, device=device).cumsum(0)
    groups = _groups(lengths, lead, allowed)
    asked = torch.stack(list(queries))
    return Tail(lead, torch.cat(list(segments)), torch.cat(places), allowed, ends, groups, asked)


def _groups(lengths: Sequence[int], lead: int, allowed: Tensor) -> Groups:
    sizes = torch.tensor([*([lead] if lead else []), *lengths], device=allowed.device)
    starts = sizes.cumsum(0) - sizes
    step = torch.arange(int(sizes.max()), device=allowed.device)
    own = starts[:, None] + torch.minimum(step, sizes[:, None] - 1)
    front = torch.arange(lead, device=allowed.device).expand(len(sizes), lead)
    keys = torch.cat([front, own], 1)
    seen = allowed[own[:, :, None], keys[:, None, :]]
    # Once each: padding repeats a segment's last token, and the summaries' own keys are those in front.
    seen[:, :, lead:] &= (step < sizes[:, None])[:, None]
    if lead:
        seen[0, :, lead:] = False
    real = (step < sizes[:, None]).reshape(-1)
    return Groups(own, keys, seen, real.nonzero()[:, 0])
