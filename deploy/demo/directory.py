"""The demo's data directory: its own, emptied at each start, so that what is shown comes from this run alone."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path

from deploy.lock import LOCK_FILE, DataDirLock
from deploy.settings.config import Settings, load
from deploy.settings.toml_text import dump
from store.base.errors import StateError
from store.base.files import write_atomic, write_json

MARKER = "anchorstream-demo.json"
CONFIG = "anchorstream.toml"


def claim(data_dir: Path) -> None:
    """Make `data_dir` an empty directory of the demo's.

    Raises:
        StateError: it holds files and is not a directory that an earlier demo made; nothing was changed.
        DataDirLocked: a demo or `up` runs on it.
    """
    if data_dir.is_dir() and any(data_dir.iterdir()) and not (data_dir / MARKER).is_file():
        raise StateError(
            f"{data_dir} is not empty and not a demo's: the demo empties its directory at each start",
            action="give another --data-dir",
            code="not_a_demo_directory",
        )
    with DataDirLock.acquire(data_dir):
        write_json(data_dir / MARKER, {"made_by": "anchorstream demo"})
        keep = {data_dir / MARKER, data_dir / Path(LOCK_FILE).parent}
        for path in (*data_dir.iterdir(), *(data_dir / LOCK_FILE).parent.iterdir()):
            if path in keep or path == data_dir / LOCK_FILE:
                continue
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def write_config(data_dir: Path, *, broker: str, port: int) -> tuple[Settings, Path]:
    """The demo's settings, and a file with them for the other commands.

    Raises:
        ConfigError: an ANCHORSTREAM_… variable makes them wrong.
    """
    example = Path(str(files("deploy") / "examples" / "journey.toml"))
    overrides = {
        "kafka": {"bootstrap_servers": broker},
        "store": {"data_dir": str(data_dir.absolute())},
        "serve": {"port": port},
    }
    settings = load(example, overrides=overrides)
    path = data_dir / CONFIG
    secret = {"serve": {"read_token", "admin_token"}, "kafka": {"properties"}}
    note = "Settings of `anchorstream demo`, for the other commands: anchorstream lag --config THIS_FILE"
    write_atomic(path, dump(settings.model_dump(exclude=secret, exclude_none=True), comment=note))
    return settings, path
