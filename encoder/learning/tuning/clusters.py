"""Without labels: groups of users by the vectors of the query alone, as the classes of a prompt (the paper's second
way)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.learning.baselines.probe import Columns

_ROUNDS = 25


@dataclass(frozen=True)
class Separation:
    """Of held-out users: margin = mean cosine to the own group's prototype less that to the nearest other; kept = share
    whose nearest prototype is that of the group they were in without the prompt."""

    margin: float
    kept: float


def groups(vectors: Columns, fitted: NDArray[np.bool_], count: int, seed: int) -> tuple[NDArray[np.int64], Columns]:
    """(group of each user, int64 (n,); unit centres (groups, 128)), by spherical k-means.

    Args:
        fitted: bool (n,), whose vectors make the groups; the others get the nearest. count: at most so many; groups
            that nobody of `fitted` is in are left out.
    """
    import faiss

    own = np.ascontiguousarray(vectors[fitted])
    means = faiss.Kmeans(own.shape[1], count, niter=_ROUNDS, seed=seed, spherical=True, min_points_per_centroid=1)
    means.train(own)
    centres = np.asarray(means.centroids, np.float32)
    used = np.unique((own @ centres.T).argmax(axis=1))
    return (vectors @ centres[used].T).argmax(axis=1).astype(np.int64), centres[used]


def separation(vectors: Columns, classes: NDArray[np.int64], prototypes: NDArray[np.float32]) -> Separation:
    """How far apart users of different groups are. prototypes: (groups, 128), unit; two or more."""
    near = vectors @ prototypes.T
    rows = np.arange(len(near))
    own = near[rows, classes].copy()
    kept = float((near.argmax(axis=1) == classes).mean())
    near[rows, classes] = -np.inf
    return Separation(float((own - near.max(axis=1)).mean()), kept)
