"""Keys and values of cached chunks: fixed-size pages in preallocated memory, keyed by content, evicted by user.

One page holds one chunk. A page is found by user, modality and the chunk's first row, and believed only as far as the
hashes of its rows agree with the rows asked for, so a stale page cannot be read. Causal attention inside a chunk makes
any common beginning reusable: an append computes the new tokens, a late event the tokens from its place on.

Life of a lease (`acquire` → forward writes → `commit`): `acquire` shortens what a page claims to hold to the part
reused; `commit` raises it to what was written. A forward that fails in between leaves nothing wrong behind.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoder.forward.chunks import MAX_ROWS
from encoder.forward.row_hash import BYTES, LANES
from encoder.forward.user_tokens import UserTokens
from store.base import metrics

HIT, PARTIAL, MISS, UNCACHED = "hit", "partial", "miss", "uncached"

PAGE_TOKENS = MAX_ROWS

_ALIGN = 64
"""Bytes; what torch aligns tensors to."""

ChunkKey = tuple[str, int, str]


@dataclass(slots=True)
class _Page:
    """hashes: of the rows whose keys and values are valid, one after another."""

    index: int
    hashes: bytes = b""


class _Write(NamedTuple):
    page: _Page
    hashes: bytes


class Lease(NamedTuple):
    """Pages of a user's chunks, in the order of its parts and their chunks.

    bases: int64 (chunks,), the slot of each chunk's first token. reused: int64 (chunks,), tokens already there.
    new_tokens: tokens to be written.
    """

    bases: NDArray[np.int64]
    reused: NDArray[np.int64]
    new_tokens: int
    writes: list[_Write]


class PoolStats(NamedTuple):
    """Chunks asked for, by result, since the start."""

    hit: int
    partial: int
    miss: int
    uncached: int


class KvPool:
    """Pages of one model. Single-threaded.

    keys, values: per layer (slots, kv_heads, head_dim); slot = page * PAGE_TOKENS + place in the chunk.
    """

    def __init__(
        self,
        *,
        layers: int,
        kv_heads: int,
        head_dim: int,
        capacity_bytes: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.page_bytes = 2 * layers * PAGE_TOKENS * kv_heads * head_dim * dtype.itemsize
        self.pages = capacity_bytes // self.page_bytes
        shape = (self.pages * PAGE_TOKENS, kv_heads, head_dim)
        self.keys = [_zeros(shape, dtype, device) for _ in range(layers)]
        self.values = [_zeros(shape, dtype, device) for _ in range(layers)]
        self._free = list(range(self.pages - 1, -1, -1))
        self._users: OrderedDict[str, dict[ChunkKey, _Page]] = OrderedDict()
        self._counts = {HIT: 0, PARTIAL: 0, MISS: 0, UNCACHED: 0}

    @property
    def stats(self) -> PoolStats:
        """Counts since the start."""
        return PoolStats(**self._counts)

    @property
    def used_bytes(self) -> int:
        """Bytes of pages held."""
        return (self.pages - len(self._free)) * self.page_bytes

    def acquire(self, user: UserTokens) -> Lease:
        """Pages for all chunks of a user. The caller writes the missing tokens, then calls `commit`.

        Frees pages of chunks the user no longer has, and evicts least recently used users. The users of one forward
        must fit the pool together: then none of them is evicted for another.
        """
        held = self._users.pop(user.user_id, {})
        kept: dict[ChunkKey, _Page] = {}
        self._users[user.user_id] = kept
        wanted = [
            (key, part.hashes[first * BYTES : end * BYTES])
            for part in user.parts
            for key, (first, end) in zip(part.chunk_keys, pairwise(part.cuts.tolist()), strict=True)
        ]
        for key, _ in wanted:
            if (page := held.pop(key, None)) is not None:
                kept[key] = page
        self._free.extend(page.index for page in held.values())
        self._make_room(len(wanted) - len(kept))
        bases: list[int] = []
        reused: list[int] = []
        writes: list[_Write] = []
        hit = partial = 0
        for key, hashes in wanted:
            page = kept.get(key)
            if page is None:
                page = kept[key] = _Page(self._free.pop())
            common = len(hashes) // BYTES
            if page.hashes == hashes:
                hit += 1
            else:
                common = _common(page.hashes, hashes)
                partial += common > 0
                page.hashes = hashes[: common * BYTES]
                writes.append(_Write(page, hashes))
            bases.append(page.index * PAGE_TOKENS)
            reused.append(common)
        for result, count in ((HIT, hit), (PARTIAL, partial), (MISS, len(writes) - partial)):
            self._count(result, count)
        return Lease(np.array(bases, np.int64), np.array(reused, np.int64), user.rows - sum(reused), writes)

    def commit(self, leases: Iterable[Lease]) -> None:
        """The leases' tokens have been written: their pages hold their chunks from here on."""
        for lease in leases:
            for page, hashes in lease.writes:
                page.hashes = hashes
        metrics.KV_POOL_BYTES.set(self.used_bytes)

    def drop(self, user_id: str) -> None:
        """Forget a user's pages; no effect when there are none."""
        self._free.extend(page.index for page in self._users.pop(user_id, {}).values())
        metrics.KV_POOL_BYTES.set(self.used_bytes)

    def skip(self, user: UserTokens) -> None:
        """Note that a user is computed without pages, having more chunks than the pool; what it held is freed."""
        self.drop(user.user_id)
        self._count(UNCACHED, user.chunks)

    def _make_room(self, pages: int) -> None:
        while len(self._free) < pages:
            _, evicted = self._users.popitem(last=False)
            self._free.extend(page.index for page in evicted.values())

    def _count(self, result: str, chunks: int) -> None:
        self._counts[result] += chunks
        metrics.KV_PAGES.labels(result).inc(chunks)


class PagedKeysValues:
    """A forward's keys and values in the pool: new tokens are written first, then all are read by slot."""

    def __init__(self, pool: KvPool, slots: Tensor) -> None:
        """slots: int64 (new tokens,), where the forward's event tokens go."""
        self._pool = pool
        self._slots = slots

    def put(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write those of the event tokens, which come first; returns the layer's slots to index."""
        if n := len(self._slots):
            self._pool.keys[layer].index_copy_(0, self._slots, keys[:n])
            self._pool.values[layer].index_copy_(0, self._slots, values[:n])
        return self._pool.keys[layer], self._pool.values[layer]


def _common(ours: bytes, wanted: bytes) -> int:
    """Rows that agree at the beginning."""
    shorter = min(len(ours), len(wanted))
    same = np.frombuffer(ours[:shorter], np.uint64) == np.frombuffer(wanted[:shorter], np.uint64)
    rows = same.reshape(-1, LANES).all(1)
    return len(rows) if rows.all() else int(rows.argmin())


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on a CPU memory that is only taken when it is first written (torch.zeros writes it all)."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = math.prod(shape) * dtype.itemsize
    raw = np.zeros(size + _ALIGN, np.uint8)
    start = -raw.ctypes.data % _ALIGN
    return torch.from_numpy(raw[start : start + size]).view(dtype).view(shape)
