"""Vectors kept in a file: computed once, the same as computed, and computed again where the file is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from encoder.learning.text_vectors import StoredTextVectors
from tests.support.hash_encoder import HashEncoder


class Counting(HashEncoder):
    def __init__(self, dim: int = 8) -> None:
        super().__init__(dim=dim)
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        return super().encode(texts)


def test_a_text_is_computed_once_and_the_file_gives_the_same(tmp_path: Path) -> None:
    texts = ["milk", "", "brød & smør", "milk", "a\x00b"]
    expected = HashEncoder().encode(texts)
    first = Counting()
    store = StoredTextVectors(first, tmp_path / "cache")
    assert np.array_equal(store.encode(texts), expected)
    assert first.asked == ["milk", "", "brød & smør", "a\x00b"]
    store.save()
    second = Counting()
    again = StoredTextVectors(second, tmp_path / "cache")
    assert again.encode(texts).tobytes() == expected.tobytes()
    assert again.encode(["new"]).tobytes() == HashEncoder().encode(["new"]).tobytes()
    assert second.asked == ["new"]
    assert again.encode([]).shape == (0, 8)


def test_another_encoder_has_another_file(tmp_path: Path) -> None:
    assert StoredTextVectors(HashEncoder(dim=4), tmp_path).path != StoredTextVectors(HashEncoder(dim=8), tmp_path).path


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_damaged_file_is_computed_again(tmp_path: Path, keep: int) -> None:
    store = StoredTextVectors(HashEncoder(), tmp_path)
    store.encode(["milk", "bread"])
    store.save()
    store.path.write_bytes(store.path.read_bytes()[:keep])
    encoder = Counting()
    again = StoredTextVectors(encoder, tmp_path)
    assert np.array_equal(again.encode(["milk"]), HashEncoder().encode(["milk"]))
    assert encoder.asked == ["milk"]
    again.save()
    assert len(StoredTextVectors(HashEncoder(), tmp_path).encode(["milk"])) == 1
