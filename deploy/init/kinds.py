"""Which field says what kind of event it is, and whether a table is one of events or of what users are. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from deploy.init.columns import Column, Table
from deploy.init.words import KIND, compact, slug

MAX_KINDS = 16
"""With more there is one modality, and the kind stands in its text."""
MAX_CHARS = 80
COVERED = 0.95
"""Of the rows must have one."""
TABULAR_ROWS = 1.2
"""Rows a user, at most."""
TABULAR_USERS = 20


class KindGuess(NamedTuple):
    """The kind of event. modalities: value there → modality. rows: of each value."""

    column: str
    modalities: dict[str, str]
    rows: dict[str, int]


def guess_kind(table: Table, roles: Collection[str], *, prefix: str = "") -> tuple[KindGuess | None, list[str]]:
    """The field, and the names of others that might be it. prefix: where user and time lie, `payload.`."""
    found = []
    for name, column in table.columns.items():
        inside = name.removeprefix(prefix) if name.startswith(prefix) else name
        if name not in roles and "." not in inside and (rank := _rank(column)) is not None:
            found.append((rank, name))
    found.sort()
    if not found:
        return None, []
    column = table.columns[found[0][1]]
    rows = Counter(str(value) for value in column.found)
    names: dict[str, str] = {}
    for number, value in enumerate(rows, 1):
        name = slug(value, fallback=f"kind_{number}")
        names[value] = name if name not in names.values() else f"{name[:36]}_{number}"
    return KindGuess(column.name, names, dict(rows.most_common())), [name for _, name in found[1:]]


def _rank(column: Column) -> tuple[int, int] | None:
    own = compact(column.name)
    tier = next((n for n, names in enumerate(KIND) if own in names), None)
    if tier is None or column.nested or column.floats or column.booleans or column.share < COVERED:
        return None
    if not 2 <= column.distinct <= MAX_KINDS or any(len(text) > MAX_CHARS for text in column.texts_found):
        return None
    return tier, KIND[tier].index(own)


def is_tabular(table: Table, user: str) -> bool:
    """Whether each user has about one row."""
    column = table.columns[user]
    return column.distinct >= TABULAR_USERS and column.present <= TABULAR_ROWS * column.distinct
