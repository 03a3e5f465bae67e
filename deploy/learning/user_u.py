"""UserU of the panel that comes with the demo, and of anybody's files by their configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deploy.brokers.kafka_jars import cache_dir
from deploy.settings.config import Settings
from encoder.learning.evaluation.data_set import DataSet
from encoder.learning.tasks.complete_journey import midnight
from encoder.learning.tasks.rows import Split
from encoder.learning.text_vectors import stored_texts
from encoder.learning.user_u import journey, topics, wordings
from encoder.learning.user_u.aspects import HORIZONS, REGULAR_DAYS, Aspect, Labels
from encoder.learning.user_u.build import Responses, build
from encoder.learning.user_u.counts import DAY_MS, Counts
from encoder.learning.user_u.moments import Cuts, draw
from encoder.learning.user_u.shards import MANIFEST, Manifest, read_manifest
from encoder.learning.windows import Windows
from encoder.model.text_encoder import identity
from store.base.errors import ConfigError

Show = Callable[[float, str], object]

TRAIN, VALIDATION = "train", "validation"
SAMPLES = 36_000
_SAMPLED = 4000
"""Cuts that bounds of amounts are taken from."""
_CONFIGURED_WEIGHT = 3.0
"""Of all aspects of the configuration together, and of all topics, where others have about 1 each."""

_FIRST_DAY, _LAST_DAY, _VALIDATION_END_DAY = 90, 216, 244
"""Of the panel: answers of training end before the second, those of validation before the third."""


class Span(NamedTuple):
    """What training may know, ms: cuts from `start` on, answers before `end`; validation's before `validation_end`."""

    start: int
    end: int
    validation_end: int


def of_journey(folder: Path, settings: Settings, data: DataSet, *, samples: int, seed: int, show: Show) -> None:
    """Of the panel's training part, with its own questions, and those that its campaigns ask. Raises OSError."""
    counts = Counts(data.windows.history)
    span = Span(midnight(_FIRST_DAY), midnight(_LAST_DAY), midnight(_VALIDATION_END_DAY))
    (asked,) = (task for task in data.tasks if task.name == "campaign_response")
    rows = np.flatnonzero(asked.split == Split.TRAIN)
    distinct, place = np.unique(asked.asks[rows], return_inverse=True)
    questions = [data.questions[question] for question in distinct.tolist()]
    responses = Responses(
        Cuts(asked.users[rows], asked.now[rows], np.ones(len(rows), bool)),
        place.reshape(-1).astype(np.int32),
        asked.y[rows],
        [question.query for question in questions],
        (questions[0].no, questions[0].yes),
    )
    _write(
        folder, settings, data.windows, counts, span, journey.aspects(), responses,
        name=data.name, samples=samples, seed=seed, show=show,
    )  # fmt: skip


def of_windows(
    folder: Path, settings: Settings, windows: Windows, *, name: str, samples: int, seed: int, show: Show
) -> None:
    """Of any history, with questions that follow from its configuration. The last days are kept for validation.

    Args:
        name: of the history, for people.

    Raises:
        ConfigError: it has no event of the configuration, or is of too few days.
    """
    history = windows.history
    counts = Counts(history)
    horizon = max(HORIZONS) * DAY_MS
    days = (counts.end - counts.start) // DAY_MS
    if not history.rows or days < 3 * max(HORIZONS):
        raise ConfigError(
            f"the history holds {history.rows:,} events of {days:,} days",
            action=f"training needs {3 * max(HORIZONS)} days or more: to look back, to learn from, and to choose by",
        )
    end = counts.end - horizon
    span = Span(counts.start + (end - horizon - counts.start) // 4, end, counts.end)
    _write(
        folder, settings, windows, counts, span, [], None,
        name=name, samples=samples, seed=seed, show=show,
    )  # fmt: skip


def _write(
    folder: Path,
    settings: Settings,
    windows: Windows,
    counts: Counts,
    span: Span,
    own: list[Aspect],
    responses: Responses | None,
    *,
    name: str,
    samples: int,
    seed: int,
    show: Show,
) -> None:
    history, zone = windows.history, settings.model.time_zone
    horizon = max(HORIZONS) * DAY_MS
    texts = stored_texts(*identity(), cache_dir())
    found = topics.find(
        history,
        lambda row: texts.get(history.vectors[row].tobytes()),
        until=span.end, seed=seed, weight=_CONFIGURED_WEIGHT,
    )  # fmt: skip
    cuts = draw(counts, samples, start=span.start, end=span.end - min(HORIZONS) * DAY_MS, zone=zone, seed=seed)
    some = cuts.take(slice(0, _SAMPLED))
    configured = wordings.of_configuration(
        history.settings, counts, some.users, np.minimum(some.moments, span.end - horizon)
    )
    weight = _CONFIGURED_WEIGHT / max(len(configured), 1) if own else 1.0
    aspects = [*own, *(replace(aspect, weight=weight) for aspect in configured), *found.aspects]
    about = {"data": name, "events": history.rows, "users": len(history.users), "answers_end_ms": span.end}
    build(
        folder / TRAIN, windows, cuts, aspects, Labels(counts, span.end, found.of), zone=zone, seed=seed,
        responses=responses, about=about,
        on_progress=lambda done, of: show(0.2 + 0.7 * done / of, f"{done:,} of {of:,} samples"),
    )  # fmt: skip
    everybody = np.arange(len(history.users))
    moment = np.full(len(everybody), span.validation_end - horizon)
    before = moment - REGULAR_DAYS * DAY_MS
    active = sum(counts.rows(m, everybody, before, moment) for m in history.settings) > 0
    last = Cuts(everybody, moment, np.zeros(len(everybody), bool)).take(np.flatnonzero(active)[:SAMPLES])
    build(
        folder / VALIDATION, windows, last, aspects, Labels(counts, span.validation_end, found.of), zone=zone,
        seed=seed, about=about | {"answers_end_ms": span.validation_end},
        on_progress=lambda done, of: show(0.9 + 0.1 * done / of, f"{done:,} of {of:,} samples of validation"),
    )  # fmt: skip


def is_there(folder: Path) -> bool:
    """Whether a whole UserU lies in the folder."""
    return all((folder / part / MANIFEST).exists() for part in (TRAIN, VALIDATION))


def manifests(folder: Path) -> tuple[Manifest, Manifest]:
    """(of training, of validation). Raises NotFoundError, WeightsError."""
    return read_manifest(folder / TRAIN), read_manifest(folder / VALIDATION)
