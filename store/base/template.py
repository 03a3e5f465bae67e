"""Texts with `{field}` in them: parsed once, rendered often."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Template:
    """Literal text and the names of fields; no formats, no nesting."""

    def __init__(self, text: str) -> None:
        """Raises ValueError for a brace that belongs to no plain placeholder."""
        # re.split with one group: literal, field, literal, field, …, literal
        self._first, *rest = _PLACEHOLDER.split(text)
        literals = rest[1::2]
        if any("{" in literal or "}" in literal for literal in (self._first, *literals)):
            raise ValueError("only plain {field} placeholders are allowed, without formats or nesting")
        self._rest = list(zip(rest[::2], literals, strict=True))

    def render(self, values: Mapping[str, Any], as_text: Callable[[str, Any], str]) -> str:
        """The text with the fields' values.

        Args:
            as_text: from the name and value of a field that is no string, its text; None = missing. May raise.
        """
        text = self._first
        for name, literal in self._rest:
            value = values.get(name)
            text += (value if value.__class__ is str else as_text(name, value)) + literal
        return text
