"""Too few open files are named so, whoever meets them."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.checks.finding import Level
from deploy.checks.machine import check_open_files
from deploy.settings.config import load
from store.base import disk, open_files
from store.http.wire import server

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_what_the_kernel_says(number: int) -> None:
    error = disk.refused(OSError(number, "words", "/state/x"))
    assert error is not None
    assert error.code == "open_files_exhausted"


def test_what_rocksdb_says_and_what_is_something_else() -> None:
    error = disk.refused(Exception("IO error: While open a file: /state/7.sst: Too many open files"), Path("/state"))
    assert error is not None
    assert error.code == "open_files_exhausted"
    assert open_files.exhausted(OSError(errno.ENOENT, "x")) is None


SERVE = """
import os, sys
from store.http.wire.server import Serve
from store.base.errors import AnchorstreamError
from fastapi import FastAPI
from tests.support.live_server import IdleTail
import resource
app = FastAPI()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True:
        held.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
try:
    Serve(app, IdleTail(), host="127.0.0.1", port=0)
except AnchorstreamError as exc:
    os.close(held.pop())
    print(exc.code, exc.detail, exc.action)
"""


def test_serve_that_cannot_open_its_socket() -> None:
    """It was `address_unusable`, and the advice to set another address."""
    done = subprocess.run([sys.executable, "-c", SERVE], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("open_files_exhausted"), done.stdout + done.stderr
    assert "64" in done.stdout
    assert "ulimit -n" in done.stdout


def test_serve_keeps_as_many_as_doctor_reckons_with() -> None:
    assert server.RESERVED_FILES == open_files.RESERVED_BY_SERVE


@pytest.mark.parametrize(
    ("number", "level"), [(128, Level.FAIL), (512, Level.WARN), (open_files.MAX_OPEN_FILES, Level.OK)]
)
def test_doctor_looks_at_the_limit(number: int, level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, number))
    finding = check_open_files(load(None))
    assert finding.level is level
    assert str(number) in finding.detail
    assert bool(finding.action) is (level is not Level.OK)
