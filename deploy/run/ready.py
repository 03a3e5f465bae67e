"""The file by which a role tells its supervisor (and a container's probe) that it works: it holds the role's pid."""

from __future__ import annotations

import os
from pathlib import Path

from store.base.files import write_atomic


def ready_path(data_dir: Path, role: str, instance: str | int = 0) -> Path:
    """`<data_dir>/run/<role>-<instance>.ready`."""
    return data_dir / "run" / f"{role}-{instance}.ready"


def write_ready(path: Path) -> None:
    """Say that this process works. To be called by a role once it is assigned, restored and consuming."""
    write_atomic(path, f"{os.getpid()}\n")


def clear_ready(path: Path) -> None:
    """Take back what `write_ready` said: at the start and the end of a role. What another living process said stays."""
    try:
        pid = int(path.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        pid = 0
    if not of_another(pid):
        path.unlink(missing_ok=True)


def of_another(pid: int) -> bool:
    """Whether this is a living process, and not this one."""
    if pid <= 0 or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_ready(path: Path, pid: int) -> bool:
    """Whether the process `pid` has said that it works."""
    try:
        return path.read_text(encoding="ascii").strip() == str(pid)
    except FileNotFoundError:
        return False
