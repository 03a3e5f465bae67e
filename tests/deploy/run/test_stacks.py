"""A role that seems to stand still can be asked where it stands."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

CONFIG = """
[kafka]
bootstrap_servers = "127.0.0.1:1"
[store]
data_dir = "{data_dir}"
"""


def test_abort_leaves_the_stacks_of_all_threads_in_the_log(tmp_path: Path) -> None:
    config, log = tmp_path / "a.toml", tmp_path / "monitor.log"
    config.write_text(CONFIG.format(data_dir=tmp_path / "data"))
    command = [sys.executable, "-m", "deploy.cli", "run", "monitor", "--config", str(config)]
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as role:
        try:
            deadline = time.monotonic() + 120
            while b"role_started" not in log.read_bytes():
                assert role.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            role.send_signal(signal.SIGABRT)
            role.wait(60)
        finally:
            role.kill()
    told = log.read_text()
    assert "Fatal Python error: Aborted" in told
    assert "run_role.py" in told
