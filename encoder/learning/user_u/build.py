"""UserU from a history: windows at many moments as the model sees them, with the classes of every aspect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.forward import chunks
from encoder.learning.user_u.aspects import HORIZONS, Aspect, Labels
from encoder.learning.user_u.moments import Cuts
from encoder.learning.user_u.shards import Events, Manifest, Question, Samples, Shard, write_manifest, write_shard
from encoder.learning.windows import Windows
from encoder.model.adapters import number_names
from encoder.statistics import statistics
from store.window.user_window import UserWindow

SHARD_SAMPLES = 4096
_BATCH = 256


@dataclass(frozen=True)
class Responses:
    """Questions that single moments are asked: of what just came, whether it is answered.

    cuts: the moments. query: int32 (n,), of `queries`. y: bool (n,). answers: wordings of no and of yes.
    """

    cuts: Cuts
    query: NDArray[np.int32]
    y: NDArray[np.bool_]
    queries: list[str]
    answers: tuple[tuple[str, ...], tuple[str, ...]]


def build(
    folder: Path,
    windows: Windows,
    cuts: Cuts,
    aspects: Sequence[Aspect],
    labels: Labels,
    *,
    zone: str,
    seed: int,
    responses: Responses | None = None,
    about: dict[str, Any] | None = None,
    on_progress: Callable[[int, int], object] = lambda done, of: None,
) -> Manifest:
    """Write shards and, last, their manifest. Memory: the history's and one shard's.

    Args:
        cuts: in random order. zone: of the statistics. seed: of the order in which samples lie.

    Raises:
        OSError: the folder cannot be written to.
    """
    history = windows.history
    everything = cuts.plus(responses.cuts) if responses else cuts
    count = len(everything.users)
    query, answer = np.full(count, -1, np.int32), np.full(count, -1, np.int8)
    if responses is not None:
        query[len(cuts.users) :], answer[len(cuts.users) :] = responses.query, responses.y
    order = np.random.default_rng([seed, 2]).permutation(count)
    folder.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, int] = {}
    for start in range(0, count, SHARD_SAMPLES):
        rows = order[start : start + SHARD_SAMPLES]
        mine = everything.take(rows)
        classes = np.stack(
            [np.stack([labels.of(a, mine.users, mine.moments, days) for days in HORIZONS], 1) for a in aspects], 1
        )
        seen = _Seen(windows, mine, zone, partial(_advance, on_progress, start, count))
        samples = Samples(mine.users, mine.moments, *seen.described(), classes, query[rows], answer[rows])
        name = f"shard-{start // SHARD_SAMPLES:05}.safetensors"
        write_shard(folder, name, Shard(samples, seen.events()))
        sizes[name] = len(rows)
    manifest = Manifest(
        modalities={name: number_names(m) for name, m in history.settings.items()},
        dim=history.dim,
        shards=sizes,
        horizons=list(HORIZONS),
        questions=[Question.of(aspect) for aspect in aspects],
        queries=responses.queries if responses else [],
        query_answers=[list(each) for each in responses.answers] if responses else [],
        about={"zone": zone, "seed": seed} | (about or {}),
    )
    write_manifest(folder, manifest)
    return manifest


def _advance(on_progress: Callable[[int, int], object], start: int, count: int, done: int) -> None:
    on_progress(start + done, count)


class _Seen:
    """Windows of one shard's samples, a batch at a time."""

    def __init__(self, windows: Windows, cuts: Cuts, zone: str, on_progress: Callable[[int], object]) -> None:
        self._history = windows.history
        self._names = list(windows.history.settings)
        self._described: list[statistics.Statistics] = []
        self._starts, self._rows = np.zeros((len(cuts.users), len(self._names) + 1), np.int64), 0
        self._columns: list[tuple[NDArray[Any], ...]] = []
        self._table: dict[bytes, int] = {}
        self._width = max((m.number_width for m in windows.history.settings.values()), default=0)
        for start in range(0, len(cuts.users), _BATCH):
            own = cuts.take(slice(start, start + _BATCH))
            batch = [
                windows.at(int(user), int(moment), includes_now=bool(includes)).at(int(moment))
                for user, moment, includes in zip(*own, strict=True)
            ]
            self._described.append(statistics.describe(batch, windows.history.settings, windows.history.dim, zone))
            for i, window in enumerate(batch):
                self._add(start + i, window)
            on_progress(start + len(batch))

    def described(self) -> tuple[NDArray[np.float16], NDArray[np.float32], NDArray[np.float16]]:
        means, stats, match = (
            np.concatenate([getattr(each, name) for each in self._described]) for name in ("means", "stats", "match")
        )
        return means.astype(np.float16), stats, match.astype(np.float16)

    def events(self) -> Events:
        nothing = (
            np.zeros(0, np.int64), np.zeros((0, self._width), np.float32), np.zeros(0, np.int32), np.zeros(0, bool),
        )  # fmt: skip
        ts, numbers, vectors, cuts = map(np.concatenate, zip(*self._columns or [nothing], strict=True))
        table = np.frombuffer(b"".join(self._table), np.float16).reshape(-1, self._history.dim)
        return Events(self._starts, ts, numbers, vectors, cuts, table)

    def _add(self, sample: int, window: UserWindow) -> None:
        for m, name in enumerate(self._names):
            self._starts[sample, m] = self._rows
            own = window.modalities.get(name)
            if own is None or not len(own.ts):
                continue
            begins = np.zeros(len(own.ts), bool)
            begins[chunks.cut(own.names)[:-1]] = True
            numbers = np.full((len(own.ts), self._width), np.nan, np.float32)
            numbers[:, : own.numbers.shape[1]] = own.numbers
            of = [self._table.setdefault(vector.tobytes(), len(self._table)) for vector in own.vectors]
            self._columns.append((own.ts, numbers, np.array(of, np.int32), begins))
            self._rows += len(own.ts)
        self._starts[sample, -1] = self._rows
