"""Whose topics the state of a data directory follows: offsets of one `kafka.topic_prefix` mean nothing in another."""

from __future__ import annotations

from pathlib import Path

from deploy.brokers.state import STATE_FOLDERS
from store.base.errors import StateError
from store.base.files import write_atomic

PREFIX_FILE = "topic-prefix"
"""In the folder of each instance: `<data_dir>/<role>/<instance>/`."""


def claim_prefix(folder: Path, prefix: str) -> None:
    """Make sure that an instance's state is of this prefix, and write it down; before the state is opened.

    Raises:
        StateError: it is of another; nothing was changed.
    """
    _check(folder, prefix)
    if not (folder / PREFIX_FILE).exists():
        write_atomic(folder / PREFIX_FILE, f"{prefix}\n")


def check_prefix(data_dir: Path, prefix: str) -> None:
    """The same of all instances on a data directory, for who only reads. Raises StateError."""
    for role in STATE_FOLDERS:
        for folder in sorted((data_dir / role).glob("*")):
            _check(folder, prefix)


def _check(folder: Path, prefix: str) -> None:
    try:
        made_of = (folder / PREFIX_FILE).read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return  # none yet, or of a version that made no note of it
    if made_of != prefix:
        raise StateError(
            f"{folder} holds state of kafka.topic_prefix = {made_of!r}, this configuration has {prefix!r}",
            action=f"set it back, or give this prefix a store.data_dir of its own; or, to go over to it here, remove "
            f"{', '.join(STATE_FOLDERS)} there (not kafka/, not kept/): they are built anew from this prefix's topics",
            code="other_topic_prefix",
        )
