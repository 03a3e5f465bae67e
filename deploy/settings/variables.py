"""`ANCHORSTREAM_…` variables and secret files that would not be heard, or cannot be read: named, not passed over."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

ENV_PREFIX = "ANCHORSTREAM_"
DELIMITER = "__"
_CLOSE = 0.8
"""Others' files may lie beside ours (`anchorstream_tls.pem`): only a name this like a table's is a slip."""
_SERVICE_ADDRESS = "tcp://", "udp://", "sctp://"
"""Kubernetes sets `ANCHORSTREAM_SERVE_PORT=tcp://…` for a Service `anchorstream-serve`."""


def unheard(sections: Mapping[str, FieldInfo], secrets: Path | None) -> list[str]:
    """One line per variable or secret file that is meant for us and would not be heard.

    Args:
        sections: the configuration's tables.
        secrets: folder of secret files; None = none.
    """
    lines = [f"{name}: {fault}" for name, rest, value in _variables() if (fault := _fault(sections, rest, value))]
    for path, rest in _secret_files(secrets):
        if path.is_dir():
            if rest.partition(DELIMITER)[0] in sections:
                lines.append(f"{path}: is a folder, not a file: a mount whose source was missing makes one")
        elif fault := _fault(sections, rest, ""):
            lines.append(f"{path}: {fault}")
    return lines


def broken(sections: Mapping[str, FieldInfo], secrets: Path | None) -> list[str]:
    """Names of the variables and secret files that should hold JSON and do not."""
    found = [
        name
        for name, rest, value in _variables()
        if (rest in sections or value.lstrip().startswith(("{", "["))) and not _json(value)
    ]
    for path, rest in _secret_files(secrets):
        if path.is_file() and rest in sections and not _json(path.read_text(encoding="utf-8")):
            found.append(str(path))
    return found


def unreadable(secrets: Path | None) -> list[str]:
    """One line per secret file that cannot be read as UTF-8; never what is in it."""
    lines = []
    for path, _ in _secret_files(secrets):
        try:
            if path.is_file():
                path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            lines.append(f"{path}: not UTF-8")
        except OSError as exc:
            lines.append(f"{path}: {exc.strerror}")
    return lines


def _variables() -> Iterator[tuple[str, str, str]]:
    """Name, what follows the prefix in lower case, value."""
    for name, value in sorted(os.environ.items()):
        if name.upper().startswith(ENV_PREFIX):
            yield name, name[len(ENV_PREFIX) :].lower(), value


def _secret_files(folder: Path | None) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.iterdir()) if folder is not None else ():
        if path.name.upper().startswith(ENV_PREFIX):
            yield path, path.name[len(ENV_PREFIX) :].lower()


def _fault(sections: Mapping[str, FieldInfo], rest: str, value: str) -> str:
    """What is wrong with a name; "" where it is heard, or is not meant for a table."""
    section, parted, key = rest.partition(DELIMITER)
    if section in sections:
        return ""
    if parted:
        near = get_close_matches(section, sections, n=1, cutoff=0.5)
        return f"no table {section!r}" + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sections)}")
    for name, field in sections.items():
        key = rest.removeprefix(f"{name}_")
        if key != rest and key in _keys(field) and not value.startswith(_SERVICE_ADDRESS):
            return f"not heard: table and key are parted by two underscores, …{name}{DELIMITER}{key}"
    near = get_close_matches(rest, sections, n=1, cutoff=_CLOSE)
    return f"no table {rest!r}; did you mean {near[0]!r}?" if near else ""


def _keys(field: FieldInfo) -> Mapping[str, Any]:
    table = field.annotation
    return table.model_fields if isinstance(table, type) and issubclass(table, BaseModel) else {}


def _json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
