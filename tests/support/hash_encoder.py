"""A text encoder for tests of the stream: vectors from a hash, on the grid the buffer needs. Fast, means nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class HashEncoder:
    """Equal texts, equal vectors. `fail_at`: the n-th call of `encode` raises (0 = never)."""

    def __init__(self, *, dim: int = 8, fail_at: int = 0) -> None:
        self.id = f"hash:{dim}"
        self.dim = dim
        self._fail_at = fail_at
        self._calls = 0
        self._cache: dict[str, NDArray[np.float16]] = {}

    def encode(self, texts: Sequence[str]) -> NDArray[np.float16]:
        self._calls += 1
        if self._calls == self._fail_at:
            raise RuntimeError("the encoder was told to fail")
        return np.stack([self._vector(text) for text in texts])

    def _vector(self, text: str) -> NDArray[np.float16]:
        found = self._cache.get(text)
        if found is None:
            seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
            found = (np.random.default_rng(seed).integers(-4096, 4097, self.dim) / 16384).astype(np.float16)
            self._cache[text] = found
        return found
