"""Where the service of a data directory answers: one file per serve process, kept for as long as it answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from store.base.errors import DataDirLocked
from store.base.file_lock import is_locked, lock
from store.base.files import read_json, write_json

LOCK_SECONDS = 2.0
"""How long the end of an earlier process of the same instance is awaited."""


def serve_path(data_dir: Path, instance: str = "0") -> Path:
    """`<data_dir>/run/serve.json`; `serve-<instance>.json` for others than the first."""
    return data_dir / "run" / ("serve.json" if instance == "0" else f"serve-{instance}.json")


@contextmanager
def claimed(data_dir: Path, instance: str, prefix: str) -> Iterator[Callable[[str], None]]:
    """For the life of a serve process: call what it gives with the URL once it answers; the file goes at the end.

    Args:
        prefix: `kafka.topic_prefix` of what it serves.

    Raises:
        DataDirLocked: another process is this instance; their snapshots and files would be each other's.
    """
    path = serve_path(data_dir, instance)
    path.parent.mkdir(parents=True, exist_ok=True)
    held = lock(path.with_suffix(".lock"), wait_seconds=LOCK_SECONDS)
    if held is None:
        raise DataDirLocked(
            f"another serve runs on {data_dir} as instance {instance!r}", action="give this one another --instance"
        )
    with held:
        path.unlink(missing_ok=True)  # of one that was killed
        try:
            yield lambda url: write_json(path, {"url": url, "pid": os.getpid(), "topic_prefix": prefix})
        finally:
            path.unlink(missing_ok=True)


def find(data_dir: Path) -> dict[str, Any] | None:
    """{url, pid, topic_prefix} of a serve of this data directory: of one that runs, else of one that was killed.

    Raises ValueError: the file is no JSON.
    """
    paths = [serve_path(data_dir), *sorted((data_dir / "run").glob("serve-*.json"))]
    paths.sort(key=lambda path: not is_locked(path.with_suffix(".lock")))
    return next((found for path in paths if (found := read_json(path)) is not None), None)
