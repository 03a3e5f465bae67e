"""How a child process of the supervisor comes to be: by default a fresh interpreter, tethered to this process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from deploy.run import tethered


class Process(Protocol):
    """What the supervisor needs of a child: a part of `subprocess.Popen`. It leads a session of its own."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None:
        """Exit code, or minus the signal that killed it; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """As `poll`, once it has ended. Raises subprocess.TimeoutExpired."""

    def terminate(self) -> None:
        """SIGTERM, unless it has ended."""


Spawn = Callable[[Sequence[str], Mapping[str, str], Path], Process]
"""Start a command with exactly this environment; standard output and error are appended to the file."""


def execute(argv: Sequence[str], env: Mapping[str, str], log_path: Path) -> Process:
    """Run the command, which the kernel kills when this thread ends (`deploy/run/tethered.py`)."""
    tether = [sys.executable, "-I", "-S", tethered.__file__, str(os.getpid())]
    with log_path.open("ab") as out:
        return subprocess.Popen(
            [*tether, *argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
