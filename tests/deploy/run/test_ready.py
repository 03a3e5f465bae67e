"""The files by which a role says that it works, and where: only its own process, or its end, takes them back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from deploy.run.endpoint import remove_target, target_path, write_target
from deploy.run.ready import clear_ready, is_ready, ready_path, write_ready


def test_another_living_process_keeps_its_word(tmp_path: Path) -> None:
    """`run ROLE` beside `up`, which ends at once, made the running role look down."""
    ready, target = ready_path(tmp_path, "ingest"), target_path(tmp_path, "ingest", "0")
    write_ready(ready)
    write_target(tmp_path, "ingest", "0", "127.0.0.1:1")
    assert is_ready(ready, os.getpid())
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    try:
        ready.write_text(f"{other.pid}\n")
        found = json.loads(target.read_text())
        found[0]["labels"]["__meta_pid"] = str(other.pid)
        target.write_text(json.dumps(found))
        clear_ready(ready)
        remove_target(tmp_path, "ingest", "0")
        assert ready.exists()
        assert target.exists()
    finally:
        other.kill()
        other.wait()
    clear_ready(ready)
    remove_target(tmp_path, "ingest", "0")
    assert not ready.exists()
    assert not target.exists()


def test_its_own_and_what_is_none_goes(tmp_path: Path) -> None:
    ready = ready_path(tmp_path, "ingest")
    for content in (f"{os.getpid()}\n", "", "no pid", "-1"):
        ready.parent.mkdir(exist_ok=True)
        ready.write_text(content)
        clear_ready(ready)
        assert not ready.exists()
    clear_ready(ready)
    write_target(tmp_path, "ingest", "0", "127.0.0.1:1")
    remove_target(tmp_path, "ingest", "0")
    remove_target(tmp_path, "ingest", "0")
    assert not target_path(tmp_path, "ingest", "0").exists()
