"""A tuning run from labelled moments, or from groups of users, to a prompt with its scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.forward.user_encoder import UserEncoder
from encoder.learning.tasks.rows import Split
from encoder.learning.tuning import labels as labels_
from encoder.learning.tuning.clusters import groups, separation
from encoder.learning.tuning.labels import Labelled, part_of
from encoder.learning.tuning.prototypes import Tuned, class_means, tune
from encoder.learning.tuning.scores import WITH, WITHOUT, Scores, score
from encoder.learning.tuning.settings import TuneSettings
from encoder.learning.tuning.states import UserStates
from encoder.learning.windows import Windows
from encoder.model.settings import ModelSettings
from encoder.model.soft_prompt import About, SoftPrompt
from store.base.errors import ConfigError

Show = Callable[[float, str], object]

_READ_TOGETHER = 128
_READING = 0.6
"""Of the bar: computing what users' tokens tell."""


@dataclass(frozen=True)
class Run:
    """What a run made. labelled: the rows that were used. scores: None of groups; separation: of groups, by vectors."""

    prompt: SoftPrompt
    labelled: Labelled
    tuned: Tuned
    scores: Scores | None
    separation: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Scenario:
    """What is tuned: a scenario's query on a model. settings: the model's."""

    name: str
    query: str
    encoder: UserEncoder
    settings: ModelSettings


def with_labels(scenario: Scenario, windows: Windows, labelled: Labelled, told: TuneSettings, show: Show) -> Run:
    """Tune a prompt that tells labelled classes apart.

    Raises:
        ConfigError: labels_unusable, of the rows that fit into memory. NotFoundError: scikit-learn is not installed.
    """
    labelled = labelled.take(_drawn(labelled, told))
    states = UserStates(scenario.encoder.model, windows.history.settings, scenario.settings, scenario.query)
    plain = _read(states, windows, labelled, told, show)
    if len(plain) < len(labelled.users):
        labelled = labelled.take(np.arange(len(plain)))
        labels_.check(labelled)
    count = len(labelled.names)
    learned = labelled.split == Split.TRAIN
    means = class_means(plain[learned], labelled.classes[learned], count)
    tuned = _tune(states, labelled, means, told, show)
    prototypes = {WITHOUT: means, WITH: tuned.prototypes.cpu().numpy()}
    scores = score(labelled, {WITHOUT: plain, WITH: states.vectors(tuned.tokens)}, prototypes, told.temperature)
    about = _about(scenario, labelled, told, tuned, scores.to_dict())
    return Run(SoftPrompt(tuned.tokens, tuned.prototypes, about), labelled, tuned, scores, {})


def with_clusters(scenario: Scenario, windows: Windows, count: int, told: TuneSettings, show: Show) -> Run:
    """Tune a prompt that tells groups of users apart, as the history's users are at its end.

    Raises:
        ConfigError: labels_unusable: there are too few users.
    """
    history = windows.history
    end = 1 + max((int(own.ts.max()) for own in history.modalities.values() if len(own.ts)), default=0)
    users = np.arange(len(history.users))
    split = np.array([part_of(user) for user in history.users], np.int8)
    nobody = Labelled([], users, np.full(len(users), end), np.zeros(len(users), np.int64), split, {})
    nobody = nobody.take(np.random.default_rng(told.seed).permutation(len(users))[: told.rows])
    states = UserStates(scenario.encoder.model, history.settings, scenario.settings, scenario.query)
    plain = _read(states, windows, nobody, told, show)
    nobody = nobody.take(np.arange(len(plain)))
    if (nobody.split == Split.TRAIN).sum() < 2 * count:
        raise ConfigError(
            f"there are {len(plain):,} users for {count} groups", action="fewer --clusters", code=labels_.UNUSABLE
        )
    classes, centres = groups(plain, nobody.split == Split.TRAIN, count, told.seed)
    labelled = replace(nobody, names=[str(c) for c in range(len(centres))], classes=classes)
    if len(centres) < 2:
        raise ConfigError("all users are alike", action="another query, or labels", code=labels_.UNUSABLE)
    tuned = _tune(states, labelled, centres, told, show)
    held = labelled.split == Split.TEST
    apart = {
        name: asdict(separation(vectors[held], classes[held], prototypes))
        for name, vectors, prototypes in (
            (WITHOUT, plain, centres),
            (WITH, states.vectors(tuned.tokens), tuned.prototypes.cpu().numpy()),
        )
    }
    about = _about(scenario, labelled, told, tuned, apart)
    return Run(SoftPrompt(tuned.tokens, tuned.prototypes, about), labelled, tuned, None, apart)


def _drawn(labelled: Labelled, told: TuneSettings) -> NDArray[np.intp]:
    """Rows in random order, of each class as large a share as of all."""
    return np.random.default_rng(told.seed).permutation(len(labelled.users))[: told.rows]


def _read(
    states: UserStates, windows: Windows, labelled: Labelled, told: TuneSettings, show: Show
) -> NDArray[np.float32]:
    """Vectors without a prompt, of as many rows as fit into memory."""
    found, count = [], len(labelled.users)
    for at in range(0, count, _READ_TOGETHER):
        moments = zip(
            labelled.users[at : at + _READ_TOGETHER].tolist(), labelled.now[at : at + _READ_TOGETHER].tolist(),
            strict=True,
        )  # fmt: skip
        found.append(states.add([windows.at(user, now).at(now) for user, now in moments]))
        show(_READING * len(states) / count, f"{len(states):,} of {count:,} users at their times")
        if states.bytes > told.state_bytes:
            break
    return np.concatenate(found) if found else np.zeros((0, 128), np.float32)


def _tune(states: UserStates, labelled: Labelled, means: NDArray[np.float32], told: TuneSettings, show: Show) -> Tuned:
    train, choosing = (np.flatnonzero(labelled.split == part) for part in (Split.TRAIN, Split.VALIDATION))

    def step(done: int, loss: float) -> None:
        show(_READING + (0.95 - _READING) * done / told.steps, f"step {done:,} of {told.steps:,}, loss {loss:.3f}")

    tuned = tune(states, labelled.classes, train, choosing, means, told, step)
    show(0.95, "scores of held-out users")
    return tuned


def _about(scenario: Scenario, labelled: Labelled, told: TuneSettings, tuned: Tuned, scores: dict[str, Any]) -> About:
    rows = {name: {part.name.lower(): n for part, n in own.items()} for name, own in labelled.counts().items()}
    return About(
        scenario.name, scenario.query, scenario.encoder.weights, scenario.settings.layout, labelled.names, scores,
        asdict(told) | {"rows": rows, "step": tuned.step},
    )  # fmt: skip
