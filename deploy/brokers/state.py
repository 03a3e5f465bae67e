"""Whose state a data directory holds. State made from one broker's offsets means nothing under another's."""

from __future__ import annotations

import shutil
from pathlib import Path

from store.base import logs
from store.base.errors import StateError
from store.base.files import read_json, sync_directory, write_json
from stream.kafka.client import Connection

IDENTITY_FILE = Path("run") / "state-identity"
STATE_FOLDERS = ("processor", "worker", "serve")
"""Of the roles that have state, each with a folder for every instance."""
STALE = "stale"
log = logs.get(__name__)


def claim_state(data_dir: Path, connection: Connection) -> Path | None:
    """Make sure that the state under `data_dir` was made from this broker; call it before any role opens its state.

    State of an earlier embedded broker cannot be continued (its messages are gone): it is moved to `<data_dir>/stale/`,
    of which only the newest is kept. Steps, each repeatable: 1. folders moved; 2. identity written.

    Returns:
        Where older state went, or None if there was none or it is this broker's.

    Raises:
        StateError: the state belongs to another Kafka cluster; nothing was changed.
    """
    identity_file = data_dir / IDENTITY_FILE
    saved = read_json(identity_file)
    before = "" if saved is None else str(saved["identity"])
    if before == connection.identity:
        return None
    present = [data_dir / name for name in STATE_FOLDERS if _holds_files(data_dir / name)]
    moved = None
    if present:
        if not connection.embedded or before.startswith("kafka:"):
            raise StateError(
                f"{data_dir} holds state made from {before or 'an unknown broker'}; this is {connection.identity}",
                action=f"use the broker that the state was made from, or another store.data_dir, or remove "
                f"{', '.join(path.name for path in present)} there to build the state anew from this broker's topics",
                code="state_of_other_broker",
            )
        moved = data_dir / STALE
        _move(present, moved)
        log.warning(
            logs.BROKER_REPLACED,
            was=before or "unknown",
            now=connection.identity,
            moved_to=str(moved),
            folders=[path.name for path in present],
            detail="the embedded broker that this state came from is gone; what is kept of its input is read anew",
        )
    write_json(identity_file, {"identity": connection.identity})
    return moved


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(path.is_file() for path in folder.rglob("*"))


def _move(folders: list[Path], target: Path) -> None:
    # a crash half-way leaves some folders in `target` and some in place: those are moved beside them next time
    for folder in folders:
        place = target / folder.name
        if place.exists():
            shutil.rmtree(place)
        target.mkdir(exist_ok=True)
        folder.rename(place)
    sync_directory(target)
    sync_directory(target.parent)
