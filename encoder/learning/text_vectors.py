"""Vectors of texts that were encoded before, in a file: a data set's few distinct texts are computed once."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from store.base.files import open_atomic
from stream.processor.encode_events import TextEncoder


class StoredTextVectors:
    """A text encoder that looks into a file first; call `save` at the end. Not thread-safe.

    id, dim: as the encoder's, whose vectors it gives. What cannot be read is computed again.
    """

    def __init__(self, encoder: TextEncoder, folder: Path) -> None:
        """folder: where the file lies, or will; its name tells the encoder's id."""
        self._encoder = encoder
        self.id, self.dim = encoder.id, encoder.dim
        self.path = _path(folder, encoder.id)
        self._vectors = _read(self.path, encoder.dim)
        self._stored = len(self._vectors)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float16]:
        """Vectors, float16 (len(texts), dim)."""
        missing = list(dict.fromkeys(text for text in texts if text not in self._vectors))
        if missing:
            self._vectors.update(zip(missing, self._encoder.encode(missing), strict=True))
        return np.stack([self._vectors[text] for text in texts]) if texts else np.empty((0, self.dim), np.float16)

    def save(self) -> None:
        """Write the file anew if there is more to remember. Raises OSError."""
        if len(self._vectors) == self._stored:
            return
        texts = [text.encode() for text in self._vectors]
        with open_atomic(self.path) as file:
            np.savez(
                file,
                texts=np.frombuffer(b"".join(texts), np.uint8),
                lengths=np.array([len(text) for text in texts], np.int64),
                vectors=np.stack(list(self._vectors.values())),
            )
        self._stored = len(self._vectors)


def stored_texts(encoder_id: str, dim: int, folder: Path) -> dict[bytes, str]:
    """A text of each vector that an encoder has stored in a folder, by the vector's bytes; no encoder is loaded."""
    return {vector.tobytes(): text for text, vector in _read(_path(folder, encoder_id), dim).items()}


def _path(folder: Path, encoder_id: str) -> Path:
    name = hashlib.blake2b(encoder_id.encode(), digest_size=8).hexdigest()
    return folder / f"text-vectors-{name}.npz"


def _read(path: Path, dim: int) -> dict[str, NDArray[np.float16]]:
    try:
        with np.load(path) as stored:
            joined, lengths, vectors = stored["texts"].tobytes(), stored["lengths"], stored["vectors"]
            ends = np.cumsum(lengths).tolist()
            if vectors.shape != (len(lengths), dim) or vectors.dtype != np.float16 or (ends or [0])[-1] != len(joined):
                return {}
            texts = [joined[end - size : end].decode() for end, size in zip(ends, lengths.tolist(), strict=True)]
            return dict(zip(texts, vectors, strict=True))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):  # not there, or damaged
        return {}
