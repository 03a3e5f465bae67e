"""A history as sequences of steps, what recurrent networks read: all that a user did at one moment is one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from encoder.learning.history import History
from encoder.learning.moments import Moments
from store.base.settings import ModalityKind
from store.window.summary import NUMBER_SCALE

TEXT_WIDTH: Final = 64
"""Texts enter by their first principal components."""
_HOUR_MS = 3_600_000
_CHUNK = 200_000

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Steps:
    """Of all users, in order of (user, time). starts: int64 (users + 1,). ts: int64 (n,), ms.

    features: float32 (n, width): the mean of the texts, of each modality how many rows and the mean of their numbers'
    signed logarithms, hour and weekday in UTC.
    """

    starts: NDArray[np.int64]
    ts: NDArray[np.int64]
    features: Floats


@dataclass(frozen=True, slots=True)
class Sequences:
    """The newest steps before moments. steps: int64 (m, length), places in `Steps`, padded at the end.

    lengths: int64 (m,), at least 1: who did nothing has one step of nobody, which `empty` says.
    """

    steps: NDArray[np.int64]
    lengths: NDArray[np.int64]
    empty: NDArray[np.bool_]


def steps_of(history: History) -> Steps:
    """Steps of all modalities but tabular ones."""
    names = [name for name, m in history.settings.items() if m.kind is ModalityKind.EVENTS]
    parts = [history.modalities[name] for name in names]
    who = np.concatenate([np.repeat(np.arange(len(own.starts) - 1), np.diff(own.starts)) for own in parts])
    ts = np.concatenate([own.ts for own in parts])
    order = np.lexsort((ts, who))
    new = np.flatnonzero((np.diff(who[order], prepend=-1) != 0) | (np.diff(ts[order], prepend=-1) != 0))
    step_of = np.empty(len(ts), np.int64)
    step_of[order] = np.searchsorted(new, np.arange(len(ts)), side="right") - 1
    users, times = who[order][new], ts[order][new]
    texts = _principal(history.vectors.astype(np.float32))
    found = [_means(step_of, np.concatenate([own.vectors for own in parts]), texts, len(new))]
    begin = 0
    for own in parts:
        mine = step_of[begin : begin + len(own.ts)]
        begin += len(own.ts)
        counts = np.bincount(mine, minlength=len(new)).astype(np.float32)
        found.append(np.log1p(counts)[:, None])
        for column in range(own.logs.shape[1]):
            total = np.bincount(mine, own.logs[:, column] / NUMBER_SCALE, len(new))
            rows = np.bincount(mine, own.present[:, column], len(new))
            found.append((total / np.maximum(rows, 1)).astype(np.float32)[:, None])
    hours = times / _HOUR_MS * (2 * np.pi)
    found += [f(hours / period).astype(np.float32)[:, None] for period in (24, 168) for f in (np.sin, np.cos)]
    starts = np.searchsorted(users, np.arange(len(history.users) + 1))
    return Steps(starts, times, np.concatenate(found, axis=1))


def sequences(steps: Steps, asked: Moments, *, length: int, window_ms: int) -> Sequences:
    """What each moment's user did within `window_ms` before it, at it where that is known: the newest steps."""
    count = len(asked.users)
    places, lengths, empty = np.zeros((count, length), np.int64), np.ones(count, np.int64), np.ones(count, bool)
    for i, (user, now, includes) in enumerate(
        zip(asked.users.tolist(), asked.now.tolist(), asked.includes_now.tolist(), strict=True)
    ):
        start, end = int(steps.starts[user]), int(steps.starts[user + 1])
        own = steps.ts[start:end]
        last = int(np.searchsorted(own, now, side="right" if includes else "left"))
        first = max(int(np.searchsorted(own, now - window_ms)), last - length)
        if last > first:
            places[i, : last - first] = np.arange(start + first, start + last)
            lengths[i], empty[i] = last - first, False
    return Sequences(places, lengths, empty)


def batch(
    steps: Steps, found: Sequences, now: NDArray[np.int64], rows: NDArray[np.int64] | slice
) -> tuple[Floats, NDArray[np.int64]]:
    """(float32 (rows, longest, width + 2), lengths): features, hours to the step before and to `now`, as logarithms."""
    lengths = found.lengths[rows]
    places = found.steps[rows][:, : int(lengths.max())]
    ts = steps.ts[places]
    age = np.log1p(np.maximum(now[rows][:, None] - ts, 0) / _HOUR_MS)
    gap = np.log1p(np.maximum(np.diff(ts, axis=1, prepend=ts[:, :1]), 0) / _HOUR_MS)
    made = np.concatenate([steps.features[places], age[..., None], gap[..., None]], axis=2).astype(np.float32)
    made[found.empty[rows]] = 0
    return made, lengths


def _principal(vectors: Floats) -> Floats:
    """float32 (texts, TEXT_WIDTH), the first of mean square 1."""
    centred = vectors - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    kept = centred @ directions[:, ::-1][:, :TEXT_WIDTH]
    found: Floats = (kept / max(float(kept[:, 0].std()), 1e-6)).astype(np.float32)
    return found


def _means(step_of: NDArray[np.int64], texts: NDArray[np.int32], vectors: Floats, count: int) -> Floats:
    """Mean of the texts of each step's rows, float32 (count, width); a row without a text counts as none."""
    total, rows = np.zeros((count, vectors.shape[1]), np.float32), np.zeros(count, np.float32)
    for start in range(0, len(texts), _CHUNK):
        mine = np.flatnonzero(texts[start : start + _CHUNK] >= 0) + start
        np.add.at(total, step_of[mine], vectors[texts[mine]])
        np.add.at(rows, step_of[mine], 1)
    return (total / np.maximum(rows, 1)[:, None]).astype(np.float32)
