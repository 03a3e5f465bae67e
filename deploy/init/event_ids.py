"""Which fields are an event's id: one that no two events share, or the fewest that with user and time are. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from deploy.init.columns import Column, Table
from deploy.init.words import FREE_TEXT, IDENTIFIER, compact, said, words

MAX_MORE = 4
"""Fields beside user and time."""
MAX_ID_CHARS = 128
FIRST = said("eventid messageid uuid guid eventuuid id insertid transactionid recordid")
"""Compact names, the likeliest first."""


class IdGuess(NamedTuple):
    """fields: a name, or several; empty = derived ids. repeated: rows that are equal to an earlier one in every field.
    conflicting: rows that have the id of another and are not equal to it."""

    fields: str | tuple[str, ...]
    repeated: int
    conflicting: int
    why: str


def guess_id(table: Table, user: str, time: str, not_these: Collection[str] = ()) -> IdGuess:
    """not_these: columns that are no part of an id. Rows without user or time do not count."""
    rows = _rows_with(table, user, time)
    first, repeated = _unequal(table, rows)
    if (single := _single(table, first, {user, time, *not_these})) is not None:
        column, conflicting = single
        only_texts = table.columns[column].texts == table.columns[column].present
        why = "no two different events share one" if not conflicting else f"{conflicting:,} events share another's"
        return IdGuess(column if only_texts else (column,), repeated, conflicting, why)
    parts = _combination(table, first, user, time, not_these)
    if parts is None:
        return IdGuess((), repeated, 0, "no fields tell one event from another")
    return IdGuess(parts, repeated, 0, "together they tell every event from every other")


def _rows_with(table: Table, *names: str) -> list[int]:
    columns = [table.columns[name].values for name in names]
    return [row for row in range(table.rows) if all(values[row] is not None for values in columns)]


def _unequal(table: Table, rows: Sequence[int]) -> tuple[list[int], int]:
    """Rows that are equal to no earlier one, and how many are. Those with lists are taken for different."""
    seen: set[tuple[Any, ...]] = set()
    first = []
    columns = [column.values for column in table.columns.values()]
    for row in rows:
        values = tuple(values[row] for values in columns)
        if values not in seen:
            seen.add(values)
            first.append(row)
    return first, len(rows) - len(first)


def _single(table: Table, rows: Sequence[int], not_these: Collection[str]) -> tuple[str, int] | None:
    found = []
    for name, column in table.columns.items():
        if name in not_these or column.nested or (column.floats and not column.are_whole):
            continue
        hint = _hint(name)
        values = [column.values[row] for row in rows]
        missing = sum(value is None for value in values)
        conflicting = len(rows) - missing - len({*values} - {None})
        if missing or len(rows) < 2 or any(map(_too_long, column.texts_found)):
            continue
        if hint and conflicting <= 0.01 * len(rows) * (hint > 1):
            found.append((conflicting > 0, -hint, name, conflicting))
    return min(found)[2:] if found else None


def _hint(name: str) -> float:
    """2: called as ids of events are; 1: as ids are; 0: otherwise."""
    if (own := compact(name)) in FIRST:
        return 3 - FIRST.index(own) / 100
    return float(bool(words(name)) and words(name)[-1] in IDENTIFIER)


def _combination(
    table: Table, rows: Sequence[int], user: str, time: str, not_these: Collection[str]
) -> tuple[str, ...] | None:
    """Greedy: the field that tells most rows apart, until all are; then those that are not needed go."""
    columns = table.columns
    usable = [
        name
        for name, column in columns.items()
        if name not in {user, time, *not_these}
        and _is_part(column)
        and all(column.values[row] is not None for row in rows)
    ]
    usable.sort(key=lambda name: (-_hint(name), columns[name].floats > 0))
    groups = _groups([0] * len(rows), [columns[user].values[row] for row in rows])
    groups = _groups(groups, [columns[time].values[row] for row in rows])
    chosen: list[str] = []
    while len({*groups}) < len(rows):
        if len(chosen) == MAX_MORE or not usable:
            return None
        told = {name: _groups(groups, [columns[name].values[row] for row in rows]) for name in usable}
        best = max(usable, key=lambda name: len({*told[name]}))
        if len({*told[best]}) == len({*groups}):
            return None
        chosen.append(best)
        usable.remove(best)
        groups = told[best]
    return (user, time, *_needed(table, rows, (user, time), chosen))


def _needed(table: Table, rows: Sequence[int], always: Sequence[str], chosen: list[str]) -> list[str]:
    for name in [*chosen]:
        fewer = [other for other in chosen if other != name]
        columns = [table.columns[part].values for part in (*always, *fewer)]
        if len({tuple(values[row] for values in columns) for row in rows}) == len(rows):
            chosen = fewer
    return chosen


def _groups(groups: Sequence[int], values: Sequence[Any]) -> list[int]:
    """Numbers of groups, split by another value."""
    numbers: dict[tuple[int, Any], int] = {}
    return [numbers.setdefault(pair, len(numbers)) for pair in zip(groups, values, strict=True)]


def _is_part(column: Column) -> bool:
    return not column.nested and column.mean_chars <= 64 and not any(word in FREE_TEXT for word in words(column.name))


def _too_long(text: str) -> bool:
    return len(text) > MAX_ID_CHARS
