"""Labels of users at moments, matched with a history, and users in three parts by a hash of their id. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from encoder.learning.history import History
from encoder.learning.tasks.rows import Split
from store.base.errors import ConfigError

UNUSABLE = "labels_unusable"
MAX_CLASSES = 32
HELD_OUT, CHOOSING = 0.2, 0.15
"""Shares of the users: whom scores are of, and who choose."""
LEAST = {Split.TRAIN: 5, Split.VALIDATION: 1, Split.TEST: 2}
"""Rows of each class in each part."""
AFTER_MS = 86_400_000
"""A label may stand so long after the history's newest event: what happened until then is not known."""

_USER, _BEFORE, _AFTER, _TWICE, _TWO = (
    "of users without an event", "before the user's first event", "after the history's end", "said twice",
    "with two answers at one time",
)  # fmt: skip


class Label(NamedTuple):
    """ts: ms; what happened before it is known."""

    user_id: str
    ts: int
    label: str


@dataclass(frozen=True)
class Labelled:
    """users: int64 (n,), places in the history. now: int64 (n,), ms. classes: int64 (n,), places in names.

    split: int8 (n,), of `Split`: users of test are held out. left_out: labels that say nothing, by the reason.
    """

    names: list[str]
    users: NDArray[np.int64]
    now: NDArray[np.int64]
    classes: NDArray[np.int64]
    split: NDArray[np.int8]
    left_out: dict[str, int]

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Some of the rows."""
        return replace(
            self, users=self.users[rows], now=self.now[rows], classes=self.classes[rows], split=self.split[rows]
        )

    def counts(self) -> dict[str, dict[Split, int]]:
        """Rows by class and part."""
        return {
            name: {part: int(((self.classes == c) & (self.split == part)).sum()) for part in Split}
            for c, name in enumerate(self.names)
        }


def part_of(user_id: str) -> Split:
    """The part of a user: the same in every run, whatever else is labelled."""
    digest = hashlib.blake2b(user_id.encode(), digest_size=8, person=b"held out").digest()
    share = int.from_bytes(digest, "big") / 2**64
    return Split.TEST if share < HELD_OUT else Split.VALIDATION if share < HELD_OUT + CHOOSING else Split.TRAIN


def match(labels: Iterable[Label], history: History) -> Labelled:
    """The labels that say something of the history's users, in order of (user, time).

    Raises:
        ConfigError: labels_unusable: no label is left, or of one class only, or too few of one.
    """
    place = {user: i for i, user in enumerate(history.users)}
    first, last = _bounds(history)
    left_out: Counter[str] = Counter()
    found: dict[tuple[int, int], str | None] = {}
    for user_id, ts, label in labels:
        user = place.get(user_id, -1)
        if user < 0:
            left_out[_USER] += 1
        elif ts <= first[user]:
            left_out[_BEFORE] += 1
        elif ts > last + AFTER_MS:
            left_out[_AFTER] += 1
        elif (user, ts) not in found:
            found[user, ts] = label
        elif found[user, ts] == label:
            left_out[_TWICE] += 1
        else:
            left_out[_TWO] += 1 if found[user, ts] is None else 2
            found[user, ts] = None
    rows = sorted((user, ts, label) for (user, ts), label in found.items() if label is not None)
    names = sorted({label for _, _, label in rows})
    index = {name: c for c, name in enumerate(names)}
    made = Labelled(
        names,
        np.array([user for user, _, _ in rows], np.int64),
        np.array([ts for _, ts, _ in rows], np.int64),
        np.array([index[label] for _, _, label in rows], np.int64),
        np.array([part_of(history.users[user]) for user, _, _ in rows], np.int8),
        dict(left_out),
    )
    check(made)
    return made


def check(labelled: Labelled) -> None:
    """Raises ConfigError: labels_unusable."""
    names, said = labelled.names, _reasons(labelled.left_out)
    if not len(labelled.users):
        raise ConfigError(
            f"no label is of a user at a time that the history knows{said}",
            action="user ids and times must be those of the events (times: when the question is asked)",
            code=UNUSABLE,
        )
    if len(names) < 2:
        raise ConfigError(
            f"all {len(labelled.users):,} labels are {names[0]!r}{said}",
            action="a prompt tells classes apart: label users of two or more",
            code=UNUSABLE,
        )
    if len(names) > MAX_CLASSES:
        raise ConfigError(
            f"there are {len(names):,} different labels, as {', '.join(map(repr, names[:3]))}",
            action=f"a label is 0 or 1, or one of at most {MAX_CLASSES} classes: put numbers into classes",
            code=UNUSABLE,
        )
    for name, counts in labelled.counts().items():
        for part, least in LEAST.items():
            if counts[part] < least:
                whose = {Split.TRAIN: "training", Split.VALIDATION: "choosing", Split.TEST: "held-out"}[part]
                raise ConfigError(
                    f"too few labels: of {name!r} there are {sum(counts.values()):,}, of {whose} users "
                    f"{counts[part]:,} where {least} are needed{said}",
                    action="more labels; fifty users of each class are a beginning",
                    code=UNUSABLE,
                )


def _reasons(left_out: dict[str, int]) -> str:
    return f" ({', '.join(f'{n:,} {reason}' for reason, n in left_out.items())})" if left_out else ""


def _bounds(history: History) -> tuple[NDArray[np.int64], int]:
    """(time of each user's first event, of the newest of all)."""
    first = np.full(len(history.users), np.iinfo(np.int64).max)
    last = 0
    for own in history.modalities.values():
        if len(own.ts):
            some = np.flatnonzero(own.starts[1:] > own.starts[:-1])
            first[some] = np.minimum(first[some], own.ts[own.starts[some]])
            last = max(last, int(own.ts.max()))
    return first, last
