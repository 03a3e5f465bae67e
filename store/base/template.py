"""Texts with `{field}` in them: parsed once, rendered often. A field may lie inside others: `{properties.sku}`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_NAME = r"[^{}:!.\s](?:[^{}:!.]*[^{}:!.\s])?"
"""Whatever a column may be called, but for what looks like a format or a place: `{a:>3}`, `{a!r}`, `{0}`."""
_PLACEHOLDER = re.compile(rf"\{{((?![0-9]+\}}){_NAME}(?:\.{_NAME})*)\}}")


class Template:
    """Literal text and the paths of fields; no formats."""

    def __init__(self, text: str) -> None:
        """Raises ValueError for a brace that belongs to no plain placeholder."""
        # re.split with one group: literal, field, literal, field, …, literal
        self._first, *rest = _PLACEHOLDER.split(text)
        literals = rest[1::2]
        if any("{" in literal or "}" in literal for literal in (self._first, *literals)):
            raise ValueError("only plain {field} and {outer.field} placeholders are allowed, without formats")
        self.fields = tuple(dict.fromkeys(rest[::2]))
        self._rest = [(name, inner(name), literal) for name, literal in zip(rest[::2], literals, strict=True)]

    def render(self, values: Mapping[str, Any], as_text: Callable[[str, Any], str]) -> str:
        """The text with the fields' values.

        Args:
            as_text: from the path and value of a field that is no string, its text; None = missing. May raise.
        """
        text = self._first
        for name, path, literal in self._rest:
            value = values.get(name)
            if path and value is None:
                value = value_inside(values, path)
            text += (value if value.__class__ is str else as_text(name, value)) + literal
        return text


def inner(path: str) -> tuple[str, ...]:
    """Names on the way to a field inside others; () for one at the top level."""
    return tuple(path.split(".")) if "." in path else ()


def value_at(values: Mapping[str, Any], path: str) -> Any:
    """The field at a dotted path, None if there is none. A key that has the whole path as its name comes first."""
    value = values.get(path)
    return value_inside(values, inner(path)) if value is None and "." in path else value


def value_inside(values: Any, path: Sequence[str]) -> Any:
    """The value at the end of a path of names, None where it ends before."""
    for name in path:
        if not isinstance(values, dict):
            return None
        values = values.get(name)
    return values
