"""The end of the sequence, after the summaries: what is computed of the scenarios, all in one forward under one mask.

A scenario is a segment [soft prompt][query][<USER_EMB>]. In the layouts `chunked` and `causal` all of it is computed
for each user: its tokens see the user's events, the summaries and their own segment. In the layout `compiled` only
<USER_EMB> is, the read-out: it sees the events, the summaries, itself, and the compiled keys of its own
[soft prompt][query].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from encoder.forward.compiled import Compiled, compile_segments
from encoder.model.backbone import Backbone

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
    """Scenarios' tokens after `lead` summary tokens (0 in the causal layout, whose summaries stand in front).

    tokens: (length - lead, hidden), the scenarios' embeddings. lengths: tokens of each scenario.
    offsets: float64 (length,), added to the tail's first position; each segment begins right after the summaries.
    allowed: bool (length, length), who sees whom inside the tail.
    outputs: int64 (scenarios,), the place of each <USER_EMB>.
    queries: float32 (scenarios, dim), unit text vectors of the queries.
    compiled: of the layout `compiled`, what each read-out sees beside the tail.
    """

    lead: int
    tokens: Tensor
    lengths: tuple[int, ...]
    offsets: Tensor
    allowed: Tensor
    outputs: Tensor
    queries: Tensor
    compiled: Compiled | None = None

    @property
    def length(self) -> int:
        """Tokens of a user's tail."""
        return len(self.offsets)

    @cached_property
    def groups(self) -> Groups:
        """`allowed` without what nobody sees."""
        return _groups(self.lengths, self.lead, self.allowed)

    @cached_property
    def anchored(self) -> Tensor:
        """Which compiled keys a place sees: bool (length, scenarios * width)."""
        assert self.compiled is not None
        own = torch.eye(len(self.lengths), dtype=torch.bool, device=self.allowed.device)
        seen = (own[:, :, None] & self.compiled.seen).flatten(1)
        return torch.cat([seen.new_zeros(self.lead, seen.shape[1]), seen])


def build(segments: Sequence[Tensor], lead: int, queries: Sequence[Tensor]) -> Tail:
    """Tail of segments, each (tokens, hidden), all of it computed for each user.

    Args:
        lead: summary tokens before them. queries: (dim,) of each segment, unit length.
    """
    return _tail(segments, lead, [0] * len(segments), queries, None)


def build_compiled(backbone: Backbone, segments: Sequence[Tensor], lead: int, queries: Sequence[Tensor]) -> Tail:
    """Tail of the segments' last tokens, the others compiled. Differentiable in the segments and the backbone."""
    compiled = compile_segments(backbone, [segment[:-1] for segment in segments], lead)
    return of_compiled([segment[-1:] for segment in segments], compiled, lead, queries)


def of_compiled(readouts: Sequence[Tensor], compiled: Compiled, lead: int, queries: Sequence[Tensor]) -> Tail:
    """Tail of read-out tokens, each (1, hidden), over anchors that are compiled already, as many."""
    return _tail(readouts, lead, compiled.seen.sum(1).tolist(), queries, compiled)


def _tail(
    segments: Sequence[Tensor],
    lead: int,
    skipped: Sequence[int],
    queries: Sequence[Tensor],
    compiled: Compiled | None,
) -> Tail:
    """skipped: positions between the summaries and each segment's first token."""
    device = segments[0].device
    lengths = [len(segment) for segment in segments]
    segment = torch.cat(
        [torch.full((n,), i, device=device) for i, n in enumerate([lead, *lengths])]  # 0 = the summaries
    )
    step = torch.arange(len(segment), device=device)
    causal = step[:, None] >= step
    allowed = causal & ((segment[:, None] == segment) | (segment == 0))
    places = [torch.arange(lead, dtype=torch.float64, device=device)]
    places += [
        lead + before + torch.arange(n, dtype=torch.float64, device=device)
        for before, n in zip(skipped, lengths, strict=True)
    ]
    ends = lead - 1 + torch.tensor(lengths, device=device).cumsum(0)
    asked = torch.stack(list(queries))
    tokens = torch.cat(list(segments))
    return Tail(lead, tokens, tuple(lengths), torch.cat(places), allowed, ends, asked, compiled)


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
