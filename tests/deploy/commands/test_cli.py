"""The command line as a person or a script meets it: help, exit codes, errors without tracebacks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy import cli, output
from deploy.commands.common import program
from store.base.errors import ConfigError

HEAVY = (
    "torch",
    "transformers",
    "confluent_kafka",
    "faust",
    "faiss",
    "rocksdict",
    "pandas",
    "fastapi",
    "pydantic",
    "rich.live",
)


def anchorstream(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *words],
        cwd=cwd, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), **env},
    )  # fmt: skip


def test_help_lists_every_command_and_imports_nothing_heavy(tmp_path: Path) -> None:
    script = f"""
import sys
from deploy.cli import run
assert run(["--help"]) == 0
found = [name for name in {HEAVY!r} if name in sys.modules]
assert not found, found
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all(f" {name} " in done.stdout for name, *_ in cli.COMMANDS)


@pytest.mark.parametrize("name", [name for name, *_ in cli.COMMANDS])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([name, "--help"]) == 0
    assert f"anchorstream {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["lagg"], 2, "lag"),
        (["lag", "--nonsense"], 2, "--nonsense"),
        (["replay", "--rate", "0", "x.jsonl"], 2, "--rate"),
        (["demo", "--broker", "carrier-pigeon"], 2, "carrier-pigeon"),
        (["lag", "--config", "absent.toml"], 2, "absent.toml"),
        (["replay"], 2, "no file"),
        (["replay", "absent.jsonl"], 1, "absent.jsonl"),
        (["neighbors", "somebody"], 1, "no service"),
        (["embedding", "somebody", "--url", "http://127.0.0.1:9"], 1, "127.0.0.1:9"),
        (["verify"], 1, "nothing yet"),
        (["buffer", "inspect", "somebody"], 1, "nothing yet"),
        (["bench", "patience"], 1, "no benchmark"),
        (["dead-letters", "show", "seventh"], 1, "not an id"),
    ],
)
def test_expected_errors(
    words: list[str],
    code: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(words) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error [")
    assert says in printed.err
    assert "→" in printed.err
    assert "Traceback" not in printed.err


def test_errors_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "anchorstream.toml").write_text("[kafka]\npartitions = 0\n")  # found without --config
    assert cli.run(["lag", "--json"]) == 2
    problem = json.loads(capsys.readouterr().err)
    assert problem["error"] == "config_invalid"
    assert "kafka.partitions" in problem["detail"]
    assert problem["action"]


def test_the_environment_names_a_config(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[kafka]\npartitions = -3\n")
    done = anchorstream("lag", cwd=tmp_path, ANCHORSTREAM_CONFIG="mine.toml")
    assert done.returncode == 2
    assert "mine.toml" in done.stderr


def test_an_unexpected_error_keeps_its_traceback(tmp_path: Path) -> None:
    script = "import deploy.commands.bench as b; b.bench = lambda: 1 / 0\nfrom deploy.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "bench"], capture_output=True, text=True, cwd=tmp_path, timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_ctrl_c_is_quiet(tmp_path: Path) -> None:
    fifo = tmp_path / "events.jsonl"
    os.mkfifo(fifo)  # opening it blocks until somebody writes
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", "replay", str(fifo)], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    # an interrupt during imports can be swallowed; where the kernel does not tell, half a minute is long enough
    where, deadline = Path(f"/proc/{process.pid}/wchan"), time.monotonic() + 30
    while time.monotonic() < deadline and not (where.exists() and "partner" in where.read_text()):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == ""


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m deploy.cli --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert "Traceback" not in done.stderr


def test_nothing_is_drawn_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress("work") as bar:
        bar.update(0.5, "half")
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_there_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    """D7: nothing at all was printed for minutes."""
    now = 0.0
    bar = output.LineBar("replay", 5.0, lambda: now)
    for moment, done in ((1, 0.1), (4.9, 0.2), (5, 0.3), (6, 0.4), (11, -1)):
        now = moment
        bar.update(done, f"at {moment}")
    assert capsys.readouterr() == ("", "replay: 30%, at 5\nreplay: at 11\n")


def test_pieces_of_output(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_table(("name", "n"), [("a", 1234567), ("b", None)], title="things", right=("n",))
    output.write_pairs({"yes": True, "seconds": 1.5})
    output.write_error(ConfigError("wrong", action="mend it"))
    out, err = capsys.readouterr()
    assert "1,234,567" in out
    assert "yes      yes" in out
    assert err == "error [config_invalid]: wrong\n  → mend it\n"
    assert [output.duration(s) for s in (None, 0.421, 61, 7500)] == ["–", "0.42 s", "1 min 01 s", "2 h 05 min"]
    assert output.moment(1_500_000_000_000) == "2017-07-14 02:40:00"


def test_next_commands_are_as_this_one_was_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make setup` puts nothing on the PATH: `anchorstream doctor` was not found."""
    binary = tmp_path / ".venv" / "bin" / "anchorstream"
    binary.parent.mkdir(parents=True)
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [".venv/bin/anchorstream", "init"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program() == ".venv/bin/anchorstream"
    monkeypatch.chdir(binary.parent)
    monkeypatch.setattr("sys.argv", [str(binary)])
    assert program() == "./anchorstream"
    monkeypatch.chdir("/")
    assert program() == str(binary)
    monkeypatch.setenv("PATH", str(binary.parent))
    assert program() == "anchorstream"
    monkeypatch.setattr("sys.argv", ["/usr/lib/python3/pytest/__main__.py"])
    monkeypatch.setenv("PATH", "/nowhere")
    assert program() == "anchorstream"


def test_a_json_file_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`bench all` measured for minutes, then ended in a traceback."""
    assert cli.run(["bench", "state", "--json", str(tmp_path / "no folder" / "table.json")]) == 2
    said = capsys.readouterr()
    assert "No such file or directory" in said.err
    assert "bench state" not in said.err
