"""A disk that is full or may not be written is an error with what to do; other errors stay what they are."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from deploy import cli
from store.base.disk import refused

FULL = "IO error: No space left on device: While appending to file: /state/7.sst: No space left on device"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_what_a_disk_refuses(number: int) -> None:
    error = refused(OSError(number, "words", "/state/x"))
    assert error is not None
    assert error.detail == "/state/x cannot be written: words"
    assert error.action
    assert error.code == "data_dir_unwritable"


def test_what_rocksdb_says() -> None:
    error = refused(Exception(FULL), Path("/state"))
    assert error is not None
    assert error.detail == f"/state cannot be written: {FULL.removeprefix('IO error: ')}"


@pytest.mark.parametrize(
    "other",
    [
        Exception("Corruption: x"), ValueError("IO error: of ours"), ConnectionRefusedError(errno.ECONNREFUSED, "x"),
        PermissionError(errno.EACCES, "bind"), OSError(errno.EADDRINUSE, "x"),
    ],
)  # fmt: skip
def test_what_is_something_else(other: BaseException) -> None:
    assert refused(other) is None


def test_a_command_that_cannot_write_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    code = cli.run(["init", str(tmp_path / "file"), "--output", str(tmp_path / "file" / "x")])
    assert code in (1, 2)
    assert "error [" in capsys.readouterr().err
