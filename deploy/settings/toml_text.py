"""Settings as TOML text (the standard library only reads it)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tomli_w
from pydantic_core import to_jsonable_python


def dump(table: Mapping[str, Any], *, comment: str = "") -> str:
    """A document of nested tables of what settings hold, paths and enums as texts. Raises TypeError for None."""
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    return lines + tomli_w.dumps(to_jsonable_python(table))
