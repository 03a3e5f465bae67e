"""Tables of docs/configuration.md from the settings classes; `python -m deploy.settings.reference FILE` writes them.

A test compares them with the file, so a setting cannot be added, renamed or get another default without its docs.
"""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from deploy.settings.config import Settings

BEGIN, END = "<!-- settings: begin (python -m deploy.settings.reference) -->", "<!-- settings: end -->"


def sections() -> list[tuple[str, type[BaseModel]]]:
    """Every table of the file: its name and its class; NAME stands for any name."""
    found: list[tuple[str, type[BaseModel]]] = []
    for name, field in Settings.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found.append((name, kind))
        else:  # dict[Name, Section]
            found.append((f"{name}.NAME", kind.__args__[1]))
    return found


_BOUNDS = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))


def tables() -> str:
    """Markdown: one table per section."""
    parts = []
    first: dict[type[BaseModel], str] = {}
    for name, section in sections():
        summary = " ".join((section.__doc__ or "").split())
        if (same := first.setdefault(section, name)) != name:
            parts += [f"### `[{name}]`", "", f"Keys as in `[{same}]`.", ""]
            continue
        parts += [f"### `[{name}]`", "", summary, "", "| key | default | allowed | meaning |", "|---|---|---|---|"]
        for key, field in section.model_fields.items():
            if not field.description:
                raise ValueError(f"{section.__name__}.{key} has no docstring")
            meaning = " ".join(field.description.split()).replace("|", "\\|")
            parts.append(f"| `{key}` | {_default(field)} | {_allowed(field)} | {meaning} |")
        parts.append("")
    return "\n".join(parts)


def updated(text: str) -> str:
    """A document with its tables renewed. Raises ValueError if it has no markers."""
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f"the document has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "none"
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int) and value >= 1 << 20 and value % (1 << 20) == 0:
        return f"`{value}` ({value >> 20} MiB)"
    if value == () or value == {}:
        return "empty"
    return f"`{value}`" if value != "" else "empty"


def _allowed(field: FieldInfo) -> str:
    annotation: Any = field.annotation
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{choice.value}`" for choice in annotation)
    if getattr(annotation, "__args__", None) and all(isinstance(arg, str) for arg in annotation.__args__):
        return ", ".join(f"`{choice}`" for choice in annotation.__args__)
    limits = [
        f"{sign} {getattr(rule, name):g}" if isinstance(getattr(rule, name), float) else f"{sign} {getattr(rule, name)}"
        for name, sign in _BOUNDS
        for rule in field.metadata
        if getattr(rule, name, None) is not None
    ]
    kind = {str: "text", int: "integer", float: "number", bool: "true, false", Path: "path"}.get(annotation, "")
    if not kind:
        shown = str(annotation)
        kinds = (("tuple", "list of texts"), ("dict", "table"), ("Path", "path"))
        kind = next((name for part, name in kinds if part in shown), "text")
    return " ".join([kind, *limits])


def main(path: Path) -> None:
    """Rewrite the tables of a document."""
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
