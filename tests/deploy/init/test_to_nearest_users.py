"""From a table that nobody configured anything for to nearest users, as a new user goes; and from the topic back."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from deploy import cli
from deploy.run.launcher import Launcher
from deploy.run.spawn import Spawn
from deploy.settings.config import load
from tests.support.shapes import visits, write_csv

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MACHINE = """
[store]
data_dir = "state"

[serve]
port = 0

[model]
threads = 1
"""
"""What is of this machine, not of the data."""
USERS = 24
SECONDS = 300.0


def test_a_table_to_nearest_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], spawn: Spawn
) -> None:
    monkeypatch.chdir(tmp_path)

    def ask(*words: str) -> Any:
        capsys.readouterr()
        ended = cli.run([*words, "--json"])
        out, err = capsys.readouterr()
        assert ended == 0, err + out
        return json.loads(out)

    write_csv(tmp_path / "visits.csv", visits(users=USERS, rows=400))
    proposed = ask("init", "visits.csv")
    config = tmp_path / "anchorstream.toml"
    config.write_text(config.read_text() + MACHINE)
    scenario = next(iter(proposed["config"]["scenarios"]))
    with Launcher(load(config), spawn=spawn) as up:
        up.wait_ready(SECONDS)
        replay = next(command.split()[1:] for command in proposed["next"] if " replay " in command)
        assert ask(*replay)["published"] == proposed["trial"]["rows"]
        deadline = time.monotonic() + SECONDS
        while (lag := ask("lag"))["lag_messages"]:
            assert time.monotonic() < deadline, lag
            time.sleep(0.3)
        (result,) = ask("neighbors", "1003", "--scenario", scenario, "--k", str(USERS))["results"]
        assert {found["user_id"] for found in result["neighbors"]} == {str(1000 + n) for n in range(USERS)} - {"1003"}
        live = ask("init", "--topic", "visits", "--output", "live.toml")
        assert live["config"]["mapping"] == proposed["config"]["mapping"]
        assert live["config"]["modalities"]["visits"]["text"] == proposed["config"]["modalities"]["visits"]["text"]
        assert live["config"]["store"] == {"data_dir": "state"}
        assert live["trial"]["accepted"] == proposed["trial"]["accepted"]
        assert not any(" replay " in command for command in live["next"]), "what is in a topic is there already"
