"""Tables of docs/configuration.md from the settings classes; `python -m deploy.settings.reference FILE` writes them.

A test compares them with the file, so a setting cannot be added, renamed or get another default without its docs.
"""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from deploy.settings.config import Settings

BEGIN, END = "<!-- settings: begin (python -m deploy.settings.reference) -->", "<!-- settings: end -->"


def sections() -> list[tuple[str, type[BaseModel]]]:
    """Every table of the file: its name and its class; NAME and TOPIC stand for any."""
    found: list[tuple[str, type[BaseModel]]] = []
    for name, field in Settings.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found.append((name, kind))
        else:  # dict[Name, Section]
            found.append((_TABLE_NAMES.get(name, f"{name}.NAME"), kind.__args__[1]))
    return [inner for outer in found for inner in (outer, *_lists(*outer))]


_TABLE_NAMES = {"mapping": 'mapping."TOPIC"'}


def _lists(name: str, section: type[BaseModel]) -> list[tuple[str, type[BaseModel]]]:
    """Its keys that are lists of tables."""
    kinds: list[tuple[str, Any]] = [(key, field.annotation) for key, field in section.model_fields.items()]
    return [
        (f"{name}.{key}", kind.__args__[0])
        for key, kind in kinds
        if get_origin(kind) is tuple and isinstance(kind.__args__[0], type) and issubclass(kind.__args__[0], BaseModel)
    ]


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
    if isinstance(value, tuple):
        value = list(value)
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
    return " ".join([_kind(annotation), *limits])


_KINDS = {str: "text", SecretStr: "text", int: "integer", float: "number", bool: "true, false", Path: "path"}
_SCALARS = [bool, int, float, str]


def _kind(annotation: Any) -> str:
    """What a value of this type is called."""
    arguments = [kind for kind in get_args(annotation) if kind not in (type(None), ...)]
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin is dict:
        return "table"
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin is tuple:
        return f"list of {_kind(arguments[0])}s"
    if origin in (Union, UnionType):
        scalars = [kind for kind in arguments if kind in _SCALARS]
        named = ["value"] if scalars == _SCALARS else list(map(_kind, scalars))
        return " or ".join([*named, *(_kind(kind) for kind in arguments if kind not in scalars)])
    return "table" if issubclass(annotation, BaseModel) else _KINDS[annotation]


def main(path: Path) -> None:
    """Rewrite the tables of a document."""
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
