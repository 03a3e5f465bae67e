"""Rows as columns, fields inside others by their paths, and what each column is made of. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from stream.events.content import DECIMAL

Scalar = str | int | float | bool
MAX_COLUMNS = 300
"""Of more the most often present."""
MAX_DEPTH = 6
NESTED, MAP = object(), object()
"""Stand for a list, and for a map where other rows have a value."""
_EXACT = 2**53
_SCALARS = frozenset({str, int, float, bool})


class Column:
    """One field of a sample.

    values: one a row; None where it is missing, null or blank text; NESTED for a list, MAP for a map.
    """

    def __init__(self, name: str, values: Sequence[Any], *, blank: int = 0) -> None:
        self.name = name
        self.values = values
        self.rows = len(values)
        self.blank = blank
        found = [value for value in values if value is not None]
        self.present = len(found)
        kinds = Counter(value.__class__ for value in found)
        self.texts, self.integers, self.floats, self.booleans = (kinds[kind] for kind in (str, int, float, bool))
        self.nested = self.present - self.texts - self.integers - self.floats - self.booleans

    @cached_property
    def counts(self) -> Counter[tuple[type, Scalar]]:
        """How often each value occurs; 1 and true are two."""
        return Counter((value.__class__, value) for value in self.found)

    @cached_property
    def found(self) -> list[Any]:
        """The values of the rows that have one."""
        return [value for value in self.values if value.__class__ in _SCALARS]

    @cached_property
    def texts_found(self) -> list[str]:
        """Different texts, in the order they first occur."""
        return [value for kind, value in self.counts if kind is str and isinstance(value, str)]

    @property
    def distinct(self) -> int:
        """How many values occur."""
        return len(self.counts)

    @property
    def share(self) -> float:
        """Of the rows that have it."""
        return self.present / self.rows if self.rows else 0.0

    @cached_property
    def are_numbers(self) -> bool:
        """Whether all are, or are texts of, finite decimal numbers, none with a leading zero as codes have."""
        if not self.present or self.nested or self.booleans:
            return False
        if not all(DECIMAL.fullmatch(text.strip()) and not _coded(text) for text in self.texts_found):
            return False
        return all(abs(value) < 3e38 for value in self.numbers)

    @cached_property
    def numbers(self) -> list[float]:
        """Different numbers, of texts too; of a column that `are_numbers`, or of what in it can be read as one."""
        read = []
        for kind, value in self.counts:
            if kind is not bool and (kind is not str or DECIMAL.fullmatch(str(value).strip())):
                number = _as_float(value)
                if math.isfinite(number):
                    read.append(number)
        return read

    @cached_property
    def are_whole(self) -> bool:
        """Whether they are numbers that are integers, exactly."""
        return self.are_numbers and all(-_EXACT < number < _EXACT and number.is_integer() for number in self.numbers)

    @cached_property
    def mean_chars(self) -> float:
        """Of its different texts."""
        return sum(map(len, self.texts_found)) / len(self.texts_found) if self.texts_found else 0.0

    def part(self, rows: Sequence[int]) -> Column:
        """Of some rows only."""
        return Column(self.name, [self.values[row] for row in rows])


class Table:
    """Rows of one kind. columns: in the order their names first occur. others: fields that have no name that a
    configuration could give, or were too many."""

    def __init__(self, events: Iterable[Mapping[str, Any]]) -> None:
        flat = [flattened(event) for event in events]
        self.rows = len(flat)
        present: Counter[str] = Counter()
        for row in flat:
            present.update(row.keys())
        kept = {name for name, _ in present.most_common(MAX_COLUMNS)}
        self.others = len(present) - len(kept)
        self.columns: dict[str, Column] = {}
        for name in present:
            if name in kept:
                values = [row.get(name) for row in flat]
                blank = sum(value.__class__ is str and not value.strip() for value in values)
                if blank:
                    values = [None if value.__class__ is str and not value.strip() else value for value in values]
                if not all(value is None or value is MAP for value in values):
                    self.columns[name] = Column(name, values, blank=blank)

    @property
    def names(self) -> frozenset[str]:
        """Of its columns."""
        return frozenset(self.columns)


def flattened(event: Mapping[str, Any]) -> dict[str, Any]:
    """Scalars by dotted path, NESTED for lists; nulls left out. As `store.base.template.value_at` finds them: where a
    name at the top has dots of its own it counts, deeper inside it cannot be named."""
    flat: dict[str, Any] = {}
    _flatten(event, "", flat, MAX_DEPTH)
    for name, value in event.items():
        if "." in name and value is not None and not isinstance(value, dict):
            flat[name] = value if value.__class__ in _SCALARS else NESTED
    return flat


def _flatten(event: Mapping[str, Any], prefix: str, flat: dict[str, Any], depth: int) -> None:
    for name, value in event.items():
        if value is None or not name or "." in name:
            continue
        path = prefix + name
        if isinstance(value, dict):
            flat[path] = MAP
            if depth:
                _flatten(value, path + ".", flat, depth - 1)
        else:
            flat[path] = value if value.__class__ in _SCALARS else NESTED


def _coded(text: str) -> bool:
    """Whether it looks like a code: `007`."""
    digits = text.strip().lstrip("+-")
    return len(digits) > 1 and digits[0] == "0" and digits[1] != "."


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf
