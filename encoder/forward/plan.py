"""Which tokens one forward computes, where they stand, and which keys each may see: index arithmetic, no parameters.

Flat order: event tokens of all users (only those not cached), then the users' tails, each `Tail.length` long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoder.forward.kv_pool import Lease
from encoder.forward.tail import Tail
from encoder.forward.user_tokens import Part, UserTokens
from encoder.model import features

KEY_MULTIPLE = 8
"""Number of keys of a tail is rounded up to this: CUDA's attention kernels want aligned mask rows."""

Ints = NDArray[np.int64]


@dataclass
class EventRows:
    """New event tokens of one modality, in flat order. places: their flat positions, an array per user."""

    vectors: list[NDArray[np.float16]] = field(default_factory=list)
    numbers: list[NDArray[np.float32]] = field(default_factory=list)
    places: list[Ints] = field(default_factory=list)


@dataclass
class Layout:
    """A forward as arrays, before masks and devices. All indices are int64.

    new_tokens: event tokens computed (causal layout: summary tokens too); tails follow them in flat order.
    events: per modality of the model. positions: float64 (all tokens,).
    summary_places: flat positions of summary tokens, user-major. segment_places: of the tails' scenario tokens.
    first, length, reused, base: per chunk with new tokens: flat position of its first new token, tokens in all,
        tokens cached, and source index of its first token.
    prefixes: per user, source indices of all its chunk tokens. slots: pool slots of the new tokens, None = no pool.
    """

    new_tokens: int
    events: list[EventRows]
    positions: NDArray[np.float64]
    summary_places: Ints
    segment_places: Ints
    first: Ints
    length: Ints
    reused: Ints
    base: Ints
    prefixes: list[Ints]
    slots: Ints | None


class Group(NamedTuple):
    """Chunks of one attention call. queries: (chunks, m) flat. keys: (chunks, L) source indices."""

    queries: Tensor
    keys: Tensor
    mask: Tensor


class Plan(NamedTuple):
    """A forward ready to run, on its device.

    order: flat position → row of [events by modality, summaries, segments]. fresh: flat indices of chunks without
    cached tokens, (chunks, L) for each class of lengths. extended: chunks with. restore: flat position of a new token
    → row of the attention outputs [fresh chunks by class, extended chunks], padded. prefixes: per user, source
    indices of all its chunk tokens. outputs: flat places of every <USER_EMB>, user-major. fold: see `finish`.
    """

    users: int
    new_tokens: int
    tail: int
    events: list[EventRows]
    positions: Tensor
    order: Tensor
    restore: Tensor
    fresh: list[Tensor]
    extended: Group | None
    prefixes: list[Ints]
    outputs: Tensor
    slots: Tensor | None
    fold: int

    @property
    def tokens(self) -> int:
        """Tokens computed."""
        return self.new_tokens + self.users * self.tail

    @property
    def now(self) -> Tensor:
        """float64 (users,): position of each tail's first token."""
        return self.positions[self.new_tokens :: self.tail]


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """Concatenated [start, start + length) of each pair."""
    ends = np.cumsum(lengths)
    offsets = np.repeat(starts - (ends - lengths), lengths)
    return offsets + np.arange(len(offsets), dtype=np.int64)


def add_rows(events: list[EventRows], part: Part, rows: Ints | slice, places: Ints) -> None:
    """Append rows of a part as new event tokens at flat positions."""
    target = events[part.index]
    target.vectors.append(part.window.vectors[rows])
    target.numbers.append(part.window.numbers[rows])
    target.places.append(places)


def chunked(users: Sequence[UserTokens], leases: Sequence[Lease] | None, tail: Tail, modalities: int) -> Layout:
    """Our layout: chunks at their event times, then [summaries][segments] at "now".

    Args:
        leases: pages per user; None = compute everything, keys and values stay in the forward.
        modalities: of the model.
    """
    events = [EventRows() for _ in range(modalities)]
    parts = [part for user in users for part in user.parts]
    length = _join([user.lengths for user in users])
    if leases is None:
        reused, base = np.zeros_like(length), np.cumsum(length) - length
    else:
        reused, base = _join([lease.reused for lease in leases]), _join([lease.bases for lease in leases])
    new = length - reused
    n = int(new.sum())
    touched = new > 0
    first = np.cumsum(new) - new
    rows = ranges(_join([part.cuts[:-1] for part in parts]) + reused, new)
    ends = np.cumsum(new)[np.cumsum([len(part.cuts) - 1 for part in parts], dtype=np.int64) - 1]
    times = []
    at = 0
    for part, end in zip(parts, ends.tolist(), strict=True):
        if end > at:
            own = rows[at:end]
            add_rows(events, part, own, np.arange(at, end))
            times.append(part.window.ts[own])
            at = end
    tokens = np.cumsum([user.rows for user in users])
    offsets = tail.offsets.cpu().numpy()
    now = features.hours(np.array([user.as_of for user in users], np.int64))
    starts = n + tail.length * np.arange(len(users), dtype=np.int64)
    return Layout(
        new_tokens=n,
        events=events,
        positions=np.concatenate([features.hours(_join(times)), (now[:, None] + offsets).reshape(-1)]),
        summary_places=(starts[:, None] + np.arange(tail.lead)).reshape(-1),
        segment_places=(starts[:, None] + np.arange(tail.lead, tail.length)).reshape(-1),
        first=first[touched],
        length=length[touched],
        reused=reused[touched],
        base=base[touched],
        prefixes=np.split(ranges(base, length), tokens[:-1]),
        slots=None if leases is None else ranges(base + reused, new),
    )


def finish(layout: Layout, tail: Tail, *, fold: int, dtype: torch.dtype, device: torch.device) -> Plan:
    """Pad, mask and move a layout to its device.

    Args:
        fold: how often masks are repeated over query rows, see `attention.grouped`. dtype: of the language model.
    """
    users, total = len(layout.prefixes), len(layout.positions)
    sources = [np.concatenate(rows.places) for rows in layout.events if rows.places]
    order = np.empty(total, np.int64)
    order[_join([*sources, layout.summary_places, layout.segment_places])] = np.arange(total)

    restore = np.empty(layout.new_tokens, np.int64)
    fresh = layout.reused == 0
    at = 0
    classes = []
    sizes = _length_class(layout.length)
    for size in np.unique(sizes[fresh]):
        first, length = (a[fresh & (sizes == size)] for a in (layout.first, layout.length))
        widest = int(length.max())
        index = first[:, None] + np.minimum(np.arange(widest), length[:, None] - 1)
        restore[ranges(first, length)] = at + ranges(np.arange(len(first)) * widest, length)
        at += index.size
        classes.append(_to(index, device))
    group = None
    if not fresh.all():
        old = ~fresh
        group, rows = _extended(layout, old, fold, dtype, device)
        new = layout.length[old] - layout.reused[old]
        restore[ranges(layout.first[old], new)] = at + ranges(np.arange(len(new)) * rows, new)
    outputs = layout.new_tokens + tail.length * np.arange(users)[:, None]
    return Plan(
        users=users,
        new_tokens=layout.new_tokens,
        tail=tail.length,
        events=layout.events,
        positions=_to(layout.positions, device),
        order=_to(order, device),
        restore=_to(restore, device),
        fresh=classes,
        extended=group,
        prefixes=layout.prefixes,
        outputs=(_to(outputs, device) + tail.outputs).reshape(-1),
        slots=None if layout.slots is None else _to(layout.slots, device),
        fold=fold,
    )


def _length_class(length: Ints) -> Ints:
    """Chunks of one class are padded to its longest: steps of 8 up to 32 (our chunks), then doubling."""
    return np.where(length <= 32, -(-length // 8), 32 + np.ceil(np.log2(np.maximum(length, 1))).astype(np.int64))


def _extended(
    layout: Layout, old: NDArray[np.bool_], fold: int, dtype: torch.dtype, device: torch.device
) -> tuple[Group, int]:
    first, length, reused, base = (a[old] for a in (layout.first, layout.length, layout.reused, layout.base))
    new = length - reused
    rows, width = int(new.max()), int(length.max())
    width += -width % KEY_MULTIPLE
    row = np.minimum(np.arange(rows), new[:, None] - 1)  # padding repeats the last query; its output is not read
    keys = base[:, None] + np.minimum(np.arange(width), length[:, None] - 1)
    allowed = np.arange(width) <= (reused[:, None] + row)[:, :, None]
    mask = additive(_to(allowed, device), dtype)[:, None].repeat(1, 1, fold, 1)
    return Group(_to(first[:, None] + row, device), _to(keys, device), mask), rows


def padded(prefixes: Sequence[Ints], beside: int) -> tuple[Ints, NDArray[np.bool_]]:
    """Users' chunk tokens at one width: source indices (users, S), and which are no padding, (users, S).

    Args:
        beside: keys that will stand beside them: together they are a multiple of `KEY_MULTIPLE`.
    """
    lengths = np.array([len(p) for p in prefixes], np.int64)
    longest = int(lengths.max(initial=0))
    longest += -(longest + beside) % KEY_MULTIPLE
    index = np.zeros((len(prefixes), longest), np.int64)
    for row, own in zip(index, prefixes, strict=True):
        row[: len(own)] = own
    return index, np.arange(longest) < lengths[:, None]


def padded_prefixes(
    prefixes: Sequence[Ints], tail: Tail, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """All users' chunk tokens at one width: source indices (users, S), additive mask (users, 1, tail, S + own keys),
    where a tail's own keys are its tokens and, in the layout `compiled`, those of all anchors.
    """
    own = tail.allowed if tail.compiled is None else torch.cat([tail.allowed, tail.anchored], 1)
    width = own.shape[1]
    index, seen = padded(prefixes, width)
    longest = index.shape[1]
    allowed = torch.empty(len(prefixes), tail.length, longest + width, dtype=torch.bool, device=device)
    allowed[:, :, :longest] = _to(seen, device)[:, None]
    allowed[:, :, longest:] = own
    return _to(index, device), additive(allowed, dtype)[:, None]


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where allowed, -inf elsewhere: computed once a forward, where a boolean mask is converted in every layer."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, float("-inf"))


def _join(arrays: Sequence[Ints]) -> Ints:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)


def _to(array: NDArray[np.generic], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
