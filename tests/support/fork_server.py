"""Roles as forks of one process that has imported torch, Faust and FAISS: in all else processes as any other.

The standard library's fork server, with commands instead of functions: `spawn` is what `Supervisor` and `Role` take
instead of starting an interpreter. One server for each pytest process; it dies with that, and its children with it.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import multiprocessing.connection
import os
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path

from deploy.run.spawn import Process, execute
from deploy.run.tethered import tether

PRELOADED = "tests.support.preloaded"
AT_START = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
"""OpenBLAS starts its threads when it is loaded; no thread survives a fork."""
START_SECONDS = 120.0

_context = multiprocessing.get_context("forkserver")
_started = threading.Event()
_lock = threading.Lock()
"""multiprocessing's exit codes are read by whoever polls first, from a pipe."""


def start() -> None:
    """Start the server. From the main thread: the kernel ties the server's life to the thread that starts it."""
    assert threading.current_thread() is threading.main_thread()
    before = {name: os.environ.get(name) for name in AT_START}
    os.environ.update(AT_START)
    try:
        _context.set_forkserver_preload([PRELOADED])
        forkserver.ensure_running()
        _started.set()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def spawn(argv: Sequence[str], env: Mapping[str, str], log_path: Path) -> Process:
    """Run `python -m MODULE ARG…` in a fork; where the kernel cannot tether it, in an interpreter of its own."""
    if not sys.platform.startswith("linux"):
        return execute(argv, env, log_path)
    assert list(argv[:2]) == [sys.executable, "-m"], argv
    assert _started.is_set(), "no server: ask for the fixture `spawn`"
    return Forked(argv[2:], env, log_path)


class Forked:
    """A `subprocess.Popen` of a command that runs in a fork."""

    def __init__(self, words: Sequence[str], env: Mapping[str, str], log_path: Path) -> None:
        self._process = _context.Process(target=_become, args=(list(words), dict(env), str(log_path)), daemon=True)
        with _lock:
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid
        deadline = time.monotonic() + START_SECONDS
        while self.poll() is None and not _leads(self.pid):  # who signals its group must find one
            assert time.monotonic() < deadline, f"{words} was not started"
            time.sleep(0.002)

    def poll(self) -> int | None:
        with _lock:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        multiprocessing.connection.wait([self._process.sentinel], timeout)
        if (code := self.poll()) is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return code

    def terminate(self) -> None:
        if self.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        if self.poll() is None:
            self._process.kill()


def _leads(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        return os.getpgid(pid) == pid
    return False


def _become(words: list[str], env: dict[str, str], log_path: str) -> None:
    """In the fork: all that exec would have done, then the module as `__main__`."""
    assert PRELOADED in sys.modules, "the fork server did not import what it should (it swallows ImportError)"
    tether(os.getppid())
    with open(log_path, "ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.setsid()
    os.environ.clear()
    os.environ.update(env)
    importlib.reload(sys.modules["store.base.fault"])  # reads the environment when imported
    sys.argv = words[:]
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
