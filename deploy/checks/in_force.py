"""Are the settings read here those that the running `up` was started with? It reads its file once."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic_core import to_jsonable_python

from deploy.checks.finding import Finding, Level
from deploy.lock import holder
from deploy.settings.config import Settings
from deploy.settings.plain import without_secrets

NAME = "in force"
JUDGING = ("modalities", "mapping", "ingest")
"""Sections by which ingest judges an event."""
SECTIONS = (*JUDGING, "scenarios", "processor", "model", "candidates")
"""What changes answers. Addresses and places (`kafka`, `store`, `serve`, …) may differ by command line and machine."""
RESTART = "stop `anchorstream up` (Ctrl-C there) and start it again: it reads its configuration once, when it starts"
SHOWN = 5


def check_in_force(settings: Settings) -> Finding:
    """What runs on this data directory runs with these settings."""
    owner = holder(settings.store.data_dir.absolute())
    if owner is None:
        return Finding(NAME, Level.OK, "nothing runs on this data directory")
    if other := not_in_force(settings):
        return Finding(
            NAME, Level.WARN, f"`up` (pid {owner.pid}) was started with other settings: {named(other)}", RESTART
        )
    return Finding(NAME, Level.OK, f"`up` (pid {owner.pid}) was started with these settings")


def not_in_force(settings: Settings, sections: Collection[str] = SECTIONS) -> list[str]:
    """Dotted keys of `sections` that the `up` on this data directory has otherwise; none where nothing runs there."""
    data_dir = settings.store.data_dir.absolute()
    if holder(data_dir) is None:
        return []
    try:
        running = tomllib.loads((data_dir / "run" / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []  # it is just starting
    ours = to_jsonable_python(without_secrets(settings.model_dump(exclude_none=True), {}))
    return sorted(
        key for section in sections for key in _different(ours.get(section, {}), running.get(section, {}), section)
    )


def named(keys: list[str]) -> str:
    """The first few of them, for a line."""
    return ", ".join(keys[:SHOWN]) + (f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else "")


def _different(ours: Any, running: Any, path: str) -> Iterator[str]:
    if isinstance(ours, Mapping) and isinstance(running, Mapping):
        for key in ours.keys() | running.keys():
            yield from _different(ours.get(key), running.get(key), f"{path}.{key}")
    elif ours != running:
        yield path
