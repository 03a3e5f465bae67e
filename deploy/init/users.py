"""Which field is the user: by name, and by values that many rows share and that are far fewer than the rows. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from deploy.init.columns import Column, Table
from deploy.init.words import IDENTIFIER, NAME_OF_PERSON, NO_USER, PERSON, SECOND_CHOICE, words, words_of_path
from store.base.user_id import user_id_fault

MIN_SHARE = 0.2
"""Of the rows, so many must have a user."""
REPEATED = 1.5
"""Rows a user, where the name does not tell."""


class UserGuess(NamedTuple):
    """The user. integers: ids are integers, or texts of integers with a fraction (`17850.0`). from_text: the latter.
    named: its name says so."""

    column: str
    integers: bool
    from_text: bool
    named: bool
    score: float
    why: str


def guess_users(table: Table, times: Collection[str]) -> list[UserGuess]:
    """Columns that may be the user, the likeliest first. times: columns that are times."""
    found = [guess for column in table.columns.values() if column.name not in times and (guess := _guess(column))]
    return sorted(found, key=lambda guess: -guess.score)


def _guess(column: Column) -> UserGuess | None:
    if column.share < MIN_SHARE or column.nested or column.booleans or not _are_ids(column):
        return None
    hint = _hint(column.name)
    if hint < 0:
        return None
    rows_each = column.present / column.distinct
    if not hint and (rows_each < REPEATED or column.distinct < 5 or not (column.are_whole or _are_codes(column))):
        return None
    score = 3 * hint + column.share + min(rows_each, 3) / 3 + min(column.distinct, 1000) / 1000
    score += 0 if hint else any(word in IDENTIFIER for word in words(column.name)) + _are_codes(column) / 2
    score -= 0.2 * column.name.count(".") + 3 * (column.distinct == 1)
    fraction = any(text.strip().endswith(".0") for text in column.texts_found[:100])
    numbers = bool(column.integers or column.floats or (fraction and column.are_whole))
    return UserGuess(column.name, numbers, numbers and bool(column.texts), hint > 0, score, in_words(column))


def in_words(column: Column) -> str:
    """How many users are in how many rows."""
    return (
        f"{column.distinct:,} different in {column.present:,} rows, {column.present / column.distinct:,.1f} rows each"
    )


def _hint(name: str) -> float:
    """1: it is called so; 0.6: such ids are the second choice; 0: it may be; -1: it is called otherwise."""
    own, whole = words(name.split(".")[-1]), words_of_path(name)
    people = [word for word in own if word in PERSON] or [
        word for word in whole if word in PERSON and own[-1:] == ["id"]
    ]
    if any(word in NO_USER for word in own) or any(word in NAME_OF_PERSON for word in own[:-1]) or own[-1:] == ["name"]:
        return 0.3 if own == ["user", "name"] else -1
    says_id = own[-1:] and (own[-1] in IDENTIFIER or own[-1] in PERSON)
    if people and says_id:
        return 0.6 if all(word in SECOND_CHOICE for word in people) else 1
    if own[:1] in (["anonymous"], ["device"], ["cookie"]) and says_id:
        return 0.6
    return -1 if people else 0


def _are_ids(column: Column) -> bool:
    if column.floats and not column.are_whole:
        return False
    if column.integers or column.floats:
        return column.are_whole
    return not any(map(user_id_fault, column.texts_found))


def _are_codes(column: Column) -> bool:
    """Whether they are texts without spaces, most with a digit or a sign of an e-mail address."""
    texts = column.texts_found[:500]
    coded = sum(" " not in text and any(char.isdigit() or char == "@" for char in text) for text in texts)
    return bool(texts) and coded > 0.8 * len(texts)
