"""E11: where a role's log is JSON, nothing else stands there, whatever it ends of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import cli
from deploy.run import roles
from deploy.run.launcher import DRAIN_ORDER, Launcher
from deploy.settings.config import load
from store.base import logs
from store.base.errors import DataLossError
from tests.deploy.operate.test_onboarding import CONFIG


def parsed(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("role", DRAIN_ORDER)
def test_a_configuration_that_cannot_be_used(role: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.toml").write_text("[kafka]\npartitons = 4\n")
    assert cli.run(["run", role, "--config", str(tmp_path / "bad.toml")]) == 2
    last = parsed(capsys.readouterr().err)[-1]
    assert (last["event"], last["role"], last["error"], last["level"]) == (
        logs.ROLE_FAILED, role, "config_invalid", "critical",
    )  # fmt: skip
    assert "partitons" in str(last["detail"])


@pytest.mark.parametrize("role", DRAIN_ORDER)
@pytest.mark.parametrize("fault", [DataLossError("gone", action="bring it back"), RuntimeError("a bug")])
def test_what_a_role_cannot_go_on_with(
    role: str, fault: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good.toml").write_text(CONFIG)

    def fail(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(roles, "run_role", fail)
    assert cli.run(["run", role, "--config", str(tmp_path / "good.toml")]) == 1
    (last,) = parsed(capsys.readouterr().err)
    assert last["event"] == logs.ROLE_FAILED
    if isinstance(fault, DataLossError):
        assert (last["error"], last["detail"], last["action"]) == ("data_lost", "gone", "bring it back")
    else:
        assert last["error"] == "unexpected"
        assert "RuntimeError: a bug" in str(last["exception"])


CRASH = """
import gc, sys, threading, warnings
from deploy import cli
from deploy.run import roles

class Odd:
    def __del__(self):
        raise ValueError("in a finalizer")

def run(*_, **__):
    warnings.warn("deprecated, some day")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    Odd()
    raise KeyError("uncaught")

roles.run_role = run
cli.main()
"""


def test_whatever_nobody_catches_is_a_line_of_the_log(tmp_path: Path) -> None:
    """In a thread, in a finalizer, a warning; and what ends the process is the last one."""
    done = subprocess.run(
        [sys.executable, "-c", CRASH, "run", "worker", "--instance", "east"], capture_output=True, text=True,
        cwd=tmp_path, timeout=120, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert done.returncode == 1
    lines = parsed(done.stderr)
    said = "\n".join(map(str, lines))
    assert all(text in said for text in ("deprecated, some day", "ZeroDivisionError", "in a finalizer"))
    assert (lines[-1]["event"], lines[-1]["instance"], lines[-1]["role"]) == (logs.ROLE_FAILED, "east", "worker")
    assert "uncaught" in str(lines[-1]["exception"])


@pytest.mark.parametrize(
    ("words", "env"),
    [(["run"], {}), (["run", "worker", "--nonsense"], {}), (["run", "worker"], {"ANCHORSTREAM_LOG_LEVEL": "LOUD"})],
)
def test_what_is_wrong_before_there_is_a_log_is_json_too(
    words: list[str], env: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert cli.run(words) == 2
    (last,) = parsed(capsys.readouterr().err)
    assert last["error"] == ("config_invalid" if env else "usage")


@pytest.mark.slow
def test_a_graceful_stop_leaves_nothing_but_lines_of_the_log(tmp_path: Path) -> None:
    """31 lines `nanobind: leaked` of triton's, whose objects were frozen out of the last collection."""
    (tmp_path / "a.toml").write_text(CONFIG.replace('data_dir = "state"', f'data_dir = "{tmp_path / "data"}"'))
    with Launcher(load(tmp_path / "a.toml"), roles=dict.fromkeys(DRAIN_ORDER, 1)) as up:
        up.wait_ready(400)
    for role in DRAIN_ORDER:
        lines = parsed((tmp_path / "data" / "logs" / f"{role}.log").read_text())
        assert lines[-1]["event"] == logs.ROLE_STOPPED, role
