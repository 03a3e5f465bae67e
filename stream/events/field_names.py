"""Names of an event's fields, for people: in printable ASCII, and no more than one can read. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

SHOWN = 12
MAX_CHARS = 40


def names(raw: dict[str, Any]) -> str:
    """Names of an event's fields, also those inside others, for people: the first dozen, in printable ASCII."""
    found = list(paths(raw))
    shown = ", ".join(map(plain, found[:SHOWN]))
    more = len(found) - SHOWN
    return f"{shown} and {more} more" if more > 0 else shown or "nothing"


def paths(raw: dict[str, Any]) -> Iterable[str]:
    """Its fields' names; of a map inside, the paths of what is in it."""
    for name, value in raw.items():
        if isinstance(value, dict) and value:
            yield from (f"{name}.{own}" for own in value)
        else:
            yield name


def plain(name: str) -> str:
    """One of them."""
    return ascii(name)[1:-1][:MAX_CHARS]
