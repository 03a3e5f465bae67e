"""A TOML document with comments: tables, keys, and why. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import tomli_w

WIDTH = 110
_BARE = re.compile(r"[A-Za-z0-9_-]+")


class Entry(NamedTuple):
    """A key of a table and its value: a scalar or a list. why: the comment above it."""

    key: str
    value: Any
    why: str = ""


class Section(NamedTuple):
    """A table. path: its name's parts. why: the comment above it."""

    path: tuple[str, ...]
    entries: Sequence[Entry]
    why: str = ""


def render(sections: Iterable[Section], *, head: Sequence[str] = (), foot: Sequence[str] = ()) -> str:
    """The document. head, foot: comments; what begins with two spaces stays one line."""
    blocks = [_comment(head)] if head else []
    for section in sections:
        lines = [_comment([section.why])] if section.why else []
        lines.append(f"[{'.'.join(map(_key, section.path))}]\n")
        for entry in section.entries:
            if entry.why:
                lines.append(_comment([entry.why]))
            lines.append(_line(entry))
        blocks.append("".join(lines))
    if foot:
        blocks.append(_comment(foot))
    return "\n".join(blocks)


def _key(part: str) -> str:
    return part if _BARE.fullmatch(part) else tomli_w.dumps({part: 0}).removesuffix(" = 0\n")


def _line(entry: Entry) -> str:
    whole = tomli_w.dumps({entry.key: entry.value})
    if not isinstance(entry.value, list):
        return whole
    items = (tomli_w.dumps({"_": item}).removeprefix("_ = ").rstrip("\n") for item in entry.value)
    short = f"{_key(entry.key)} = [{', '.join(items)}]\n"
    return short if len(short) <= WIDTH else whole


def _comment(texts: Sequence[str]) -> str:
    lines = []
    for text in texts:
        plain = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
        if plain.startswith("  "):  # a command
            lines.append(plain)
            continue
        hanging = "  " if plain.startswith("- ") else ""
        lines += textwrap.wrap(plain, WIDTH - 2, subsequent_indent=hanging, break_on_hyphens=False) or [""]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)
