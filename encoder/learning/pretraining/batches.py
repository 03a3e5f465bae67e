"""Which samples a step learns from, what they are asked, and how they look to the model: from the seed and the step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.forward.user_tokens import Part, UserTokens
from encoder.learning.pretraining.settings import PretrainSettings
from encoder.learning.user_u.shards import Events, Manifest, Samples, Shard, read_shard
from encoder.learning.user_u.wordings import spans
from store.window.rows import Summary
from store.window.user_window import ModalityWindow

Generator = np.random.Generator


@dataclass(frozen=True)
class Asked:
    """Of one step. place: int (k,), of the manifest's questions. queries: their texts. horizon: place among horizons.

    answers: per question a wording of each class. classes: int8 (samples, k), -1 = not asked. longest: whether the
    horizon is the longest, of which a teacher knows.
    """

    place: NDArray[np.intp]
    queries: list[str]
    answers: list[list[str]]
    classes: NDArray[np.int8]
    longest: bool


class Batches:
    """Steps' samples, a shard in memory at a time. A step is the same whichever was asked for before it."""

    def __init__(self, folder: Path, manifest: Manifest, settings: PretrainSettings) -> None:
        """Raises NotFoundError: a shard is missing."""
        self._folder = folder
        self._manifest = manifest
        self._settings = settings
        self._names = sorted(manifest.shards)
        per_shard = [max(1, manifest.shards[name] // settings.batch) for name in self._names]
        self._ends = np.cumsum(per_shard)
        self._held: tuple[tuple[int, int], Shard, NDArray[np.intp]] | None = None
        weights = np.array([question.weight for question in manifest.questions])
        self._weights = weights / weights.sum()

    @property
    def per_epoch(self) -> int:
        """Steps in which every sample comes once."""
        return int(self._ends[-1])

    def at(self, step: int) -> tuple[str, Shard, NDArray[np.intp]]:
        """A shard, its name, and its rows of a step: those that are asked what everybody is asked."""
        epoch, within = divmod(step, self.per_epoch)
        order = np.random.default_rng([self._settings.seed, epoch]).permutation(len(self._names))
        sizes = np.diff(self._ends, prepend=0)[order]
        place = int(np.searchsorted(np.cumsum(sizes), within, side="right"))
        offset = within - int(np.cumsum(sizes)[place] - sizes[place])
        number = int(order[place])
        if self._held is None or self._held[0] != (epoch, number):
            shard = read_shard(self._folder, self._names[number])
            common = np.flatnonzero(shard.samples.query < 0)
            rows = np.random.default_rng([self._settings.seed, epoch, number]).permutation(common)
            self._held = ((epoch, number), shard, rows)
        _, shard, rows = self._held
        start = offset * self._settings.batch
        return self._names[number], shard, np.take(rows, np.arange(start, start + self._settings.batch), mode="wrap")

    def ask(self, samples: Samples, rng: Generator) -> Asked:
        """Some of the questions, in one wording and of one horizon each step."""
        manifest, settings = self._manifest, self._settings
        count = min(settings.aspects, len(manifest.questions))
        place = rng.choice(len(manifest.questions), count, replace=False, p=self._weights)
        longest = len(manifest.horizons) - 1
        horizon = longest if rng.random() < settings.longest_share else int(rng.integers(0, longest + 1))
        said = spans(manifest.horizons[horizon])
        queries = [
            str(rng.choice(manifest.questions[p].questions)).format(horizon=said[rng.integers(len(said))])
            for p in place
        ]
        answers = [[str(rng.choice(each)) for each in manifest.questions[p].answers] for p in place]
        return Asked(place, queries, answers, samples.classes[:, place, horizon], horizon == longest)


@dataclass(frozen=True)
class ResponseRows:
    """All samples with a question of their own, held in memory."""

    samples: Samples

    @classmethod
    def read(cls, folder: Path, manifest: Manifest) -> ResponseRows | None:
        """None where there are none. Raises NotFoundError."""
        if not manifest.queries:
            return None
        found = []
        for name in sorted(manifest.shards):
            samples = read_shard(folder, name).samples
            found.append(samples.take(np.flatnonzero(samples.query >= 0)))
        columns: list[Any] = [np.concatenate(column) for column in zip(*found, strict=True)]
        return cls(Samples(*columns))


def user_tokens(
    samples: Samples,
    *,
    disturb: Callable[[NDArray[np.float32]], NDArray[np.float32]] = lambda stats: stats,
) -> list[UserTokens]:
    """Samples without their events: tails alone. disturb: of all statistics, float32 (n, statistics)."""
    stats = disturb(samples.stats)
    means, match = samples.means.astype(np.float32), samples.match.astype(np.float32)
    return [UserTokens("", int(moment), [], means[i], stats[i], match[i]) for i, moment in enumerate(samples.moments)]


def with_events(
    users: list[UserTokens], rows: NDArray[np.intp], events: Events, modalities: list[str], widths: list[int]
) -> list[UserTokens]:
    """The same users with their event tokens. rows: of each in the shard. widths: numbers of each modality."""
    nothing = Summary(0, 0, 0, np.zeros(events.table.shape[1], np.float32), (), (), {}, 0)
    out = []
    for user, row in zip(users, rows.tolist(), strict=True):
        parts = []
        for index, (name, width) in enumerate(zip(modalities, widths, strict=True)):
            start, end = events.starts[row, index : index + 2].tolist()
            if start == end:
                continue
            own = slice(start, end)
            window = ModalityWindow(
                nothing, events.ts[own], [], events.numbers[own, :width], events.table[events.vectors[own]]
            )
            parts.append(Part(index, name, window, np.append(np.flatnonzero(events.cuts[own]), end - start)))
        out.append(UserTokens(user.user_id, user.as_of, parts, user.means, user.stats, user.match))
    return out
