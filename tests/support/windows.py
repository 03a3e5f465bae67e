"""Windows of made-up users, built straight from rows: what `TokenBuffer.window` gives, without a buffer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from store.base.settings import ModalityKind, ModalitySettings
from store.window.rows import Summary
from store.window.user_window import ModalityWindow, UserWindow

DIM = 384
START_MS = 1_700_000_000_000

MODALITIES = {
    "bill": ModalitySettings(topic="b", numbers=("amount", "fee")),
    "search": ModalitySettings(topic="s"),
    "profile": ModalitySettings(topic="p", kind=ModalityKind.TABULAR),
}


class Row(NamedTuple):
    """One event. seed: decides its vector and numbers."""

    modality: str
    ts: int
    name: str
    seed: int


def vector(seed: int, dim: int = DIM) -> np.ndarray:
    raw = np.random.default_rng(seed).standard_normal(dim)
    return (np.round(raw / np.linalg.norm(raw) * 2**14) / 2**14).astype(np.float16)


def window(
    user_id: str, rows: Iterable[Row], modalities: Mapping[str, ModalitySettings] = MODALITIES, dim: int = DIM
) -> UserWindow:
    """The window of exactly these rows."""
    by_modality: dict[str, list[Row]] = {}
    for row in rows:
        by_modality.setdefault(row.modality, []).append(row)
    out = {}
    for name, own in by_modality.items():
        own.sort(key=lambda row: (row.ts, row.name))
        k = modalities[name].number_width
        vectors = np.stack([vector(row.seed, dim) for row in own])
        numbers = np.stack([np.random.default_rng(row.seed).normal(20, 30, k) for row in own]).astype(np.float32)
        numbers[[row.seed % 5 == 0 for row in own]] = np.nan
        ts = np.array([row.ts for row in own], np.int64)
        total = vectors.astype(np.float64).sum(0).astype(np.float32)
        summary = Summary(len(own), int(ts[0]), int(ts[-1]), total, (0,) * k, (0,) * k, {"t:0": len(own)}, 0)
        out[name] = ModalityWindow(summary, ts, [row.name for row in own], numbers, vectors)
    return UserWindow(user_id, out)


def random_rows(
    seed: int, count: int, modalities: Mapping[str, ModalitySettings] = MODALITIES, days: float = 90
) -> list[Row]:
    """Rows spread over the window, each modality about equally."""
    rng = np.random.default_rng(seed)
    names = list(modalities)
    return [
        Row(
            names[int(rng.integers(len(names)))],
            START_MS + int(rng.integers(int(days * 86_400_000))),
            f"u{seed}-e{i}",
            int(rng.integers(1 << 30)),
        )
        for i in range(count)
    ]
