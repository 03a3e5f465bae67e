"""What was fitted, read again where something is otherwise: vectors that are old, histories with others' events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from encoder.forward.user_encoder import UserEncoder
from encoder.learning.evaluation.methods import ASKING, OF_A_CHECKPOINT, Methods, Show
from encoder.learning.evaluation.table import Method, Table
from encoder.learning.tasks.questions import GENERAL, Question
from encoder.learning.tasks.rows import Split

AGES_DAYS: Final = (0, 1, 7, 28)
SHARES: Final = (0.0, 0.1, 0.3, 0.5)
INSTRUCTIONS: Final[Mapping[str, Callable[[Question, Question], str]]] = {
    "own": lambda own, other: own.query,
    "paraphrase": lambda own, other: own.queries[-1],
    "empty": lambda own, other: "?",
    "vague": lambda own, other: GENERAL,
    "wrong": lambda own, other: "Which of the two football teams won the cup in that year?",
    "another's": lambda own, other: other.query,
}
"""What is asked instead of a task's own question, which is the first argument; the second is another task's. A
scenario's query has at least one character, so the emptiest says nothing but that something is asked."""

Series = dict[str, dict[str, Method]]
"""By method, then by step."""

_DAY_MS = 86_400_000


def freshness(methods: Methods, table: Table, show: Show) -> Series:
    """By age in days: the same rows of test from what was known so much earlier, by what was fitted on fresh ones.

    Of tasks that ask at a chosen time; those that ask as something happens have no earlier.
    """
    data = methods.data
    found: Series = {}
    test = [task for task in data.tasks if not task.includes_now]
    for i, age in enumerate(AGES_DAYS):
        aged = [task.only(task.split == Split.TEST, earlier_ms=age * _DAY_MS) for task in test]
        _add(found, str(age), methods.again(table, data, aged, _part(show, i, len(AGES_DAYS), f"{age} days old")))
    return found


def noise(methods: Methods, table: Table, show: Show) -> Series:
    """By share: the rows of test, read by what was fitted on clean ones, with so many of another user's moments in each
    history. Nothing where the data set has no such histories."""
    data = methods.data
    found: Series = {}
    if data.noisy is None:
        return found
    test = [task.only(task.split == Split.TEST) for task in data.tasks]
    for i, share in enumerate(SHARES):
        mixed = data.noisy(share) if share else data
        _add(found, f"{share:g}", methods.again(table, mixed, test, _part(show, i, len(SHARES), f"{share:.0%} noise")))
    return found


def instructions(methods: Methods, table: Table, show: Show) -> Series:
    """By what is asked: the rows of test, read by what was fitted on vectors for the tasks' own questions, from vectors
    for another one; only of methods that ask."""
    data = methods.data
    asking = methods.only(ASKING)
    of_task = {int(question): i for i, task in enumerate(data.tasks) for question in task.asks}
    first = [data.questions[int(task.asks[0])] for task in data.tasks]
    other = [first[(of_task.get(i, 0) + 1) % len(first)] for i in range(len(data.questions))]
    test = [task.only(task.split == Split.TEST) for task in data.tasks]
    found: Series = {}
    for i, (name, said) in enumerate(INSTRUCTIONS.items()):
        asked = [
            replace(own, queries=(said(own, another),)) for own, another in zip(data.questions, other, strict=True)
        ]
        part = _part(show, i, len(INSTRUCTIONS), name)
        _add(found, name, asking.again(table, replace(data, questions=asked), test, part))
    return found


def seeds(methods: Methods, table: Table, first: str, encoders: Mapping[str, UserEncoder], show: Show) -> Series:
    """By checkpoint: the table's methods of a checkpoint, and the same of others, each with readers of its own.

    Args:
        first: what the table's own is called. encoders: the others, by name.
    """
    found: Series = {}
    _add(found, first, {name: method for name, method in table.methods.items() if name in OF_A_CHECKPOINT})
    for i, (checkpoint, encoder) in enumerate(encoders.items()):
        others = methods.of_encoder(encoder).table(_part(show, i, len(encoders), checkpoint))
        _add(found, checkpoint, others.methods)
    return found


def _add(found: Series, step: str, by_method: dict[str, Method]) -> None:
    for name, method in by_method.items():
        found.setdefault(name, {})[step] = method


def _part(show: Show, i: int, of: int, what: str) -> Show:
    return lambda done, text: show((i + done) / of, f"{what}: {text}")
