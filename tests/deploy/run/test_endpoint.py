"""The endpoint of a role: probes that a hanging process fails, and targets by which Prometheus finds all of `up`."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from urllib.error import HTTPError

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from deploy import cli
from deploy.run.endpoint import application, clear_targets, listen, target_path, write_target
from deploy.run.launcher import DRAIN_ORDER, Launcher
from deploy.run.spawn import Spawn
from deploy.settings.config import Settings, load
from store.base import pulse
from store.base.errors import AnchorstreamError
from store.base.exposure import netloc
from store.base.pulse import SILENT_SECONDS
from tests.deploy.operate.test_onboarding import CONFIG, lines

ROOT = Path(__file__).parents[3]
SECONDS = 200.0


def get(address: str, path: str = "/metrics") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as exc:
        return exc.code, exc.read().decode()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_probes_say_what_the_process_says_of_itself(host: str) -> None:
    registry = CollectorRegistry()
    Gauge("of_ours", "x", registry=registry).set(3)
    ready, silent = [False], [0.0]
    address = netloc(host, listen(application(registry, lambda: ready[0], lambda: silent[0]), host, 0))
    assert "of_ours 3.0" in get(address)[1]
    assert get(address, "/readyz")[0] == 503
    assert get(address, "/livez")[0] == 200
    ready[0] = True
    assert get(address, "/readyz")[0] == 200
    silent[0] = SILENT_SECONDS + 1
    assert get(address, "/livez")[0] == 503
    assert get(address, "/readyz")[0] == 200


def test_an_address_that_is_taken_is_an_error_with_a_remedy() -> None:
    app = application(CollectorRegistry(), lambda: True, lambda: 0.0)
    port = listen(app, "127.0.0.1", 0)
    for host, wanted in (("127.0.0.1", port), ("no such host.invalid", 0)):
        with pytest.raises(AnchorstreamError) as refused:
            listen(app, host, wanted)
        assert refused.value.code == "metrics_unavailable"
        assert "metrics.port" in refused.value.action


def test_a_role_that_was_killed_comes_back_at_its_port() -> None:
    """A scrape leaves the side that closes first, ours, in TIME_WAIT for a minute: ten starts failed, then no more."""
    with socket.create_server(("127.0.0.1", 0)) as last_life:
        port = last_life.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as scrape:
            ours, _ = last_life.accept()
            ours.close()
            assert scrape.recv(1) == b""
    app = application(CollectorRegistry(), lambda: True, lambda: 0.0)
    assert listen(app, "127.0.0.1", port) == port


def test_a_loop_that_has_not_begun_is_not_silent_and_a_beat_ends_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "_last", None)
    assert pulse.silent_seconds() == 0
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pulse.beat()
    now[0] += 700
    assert pulse.silent_seconds() == 700
    pulse.beat()
    assert pulse.silent_seconds() == 0


def test_targets_are_one_file_a_process_and_those_of_an_earlier_up_go(tmp_path: Path) -> None:
    write_target(tmp_path, "worker", "1", "127.0.0.1:4567")
    found = json.loads(target_path(tmp_path, "worker", "1").read_text())
    labels = {"role": "worker", "instance": "worker-1", "__meta_pid": str(os.getpid())}
    assert found == [{"targets": ["127.0.0.1:4567"], "labels": labels}]
    clear_targets(tmp_path)
    assert not list((tmp_path / "run" / "scrape").iterdir())


def scrape_config() -> str:
    """The one that docs/operations.md prints for `up`."""
    text = (ROOT / "docs" / "operations.md").read_text()
    (block,) = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.S) if "file_sd_configs" in block]
    return block


def targets(folder: Path) -> dict[str, str]:
    """{instance: address}, by the documented configuration, read in `folder`."""
    (job,) = yaml.safe_load(scrape_config())["scrape_configs"]
    found = {}
    for pattern in job["file_sd_configs"][0]["files"]:
        for path in glob(str(folder / pattern)):
            for group in json.loads(Path(path).read_text()):
                assert group["labels"]["role"] == group["labels"]["instance"].rpartition("-")[0]
                (found[group["labels"]["instance"]],) = group["targets"]
    return found


def panels() -> Iterator[tuple[str, set[str]]]:
    board = json.loads((ROOT / "deploy" / "dashboards" / "anchorstream.json").read_text())
    for panel in board["panels"]:
        yield panel["title"], {n for t in panel["targets"] for n in re.findall(r"\banchorstream_\w+", t["expr"])}


def until(condition: object) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_prometheus_finds_every_role_of_up_and_no_panel_stays_empty(
    tmp_path: Path, spawn: Spawn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """E14."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bikes.toml").write_text(CONFIG.replace('data_dir = "state"', 'data_dir = "anchorstream-data"'))
    (tmp_path / "rides.jsonl").write_text("\n".join(lines()) + "\n")
    settings: Settings = load(tmp_path / "bikes.toml")
    with Launcher(settings, roles=dict.fromkeys(DRAIN_ORDER, 1), spawn=spawn) as up:
        up.wait_ready(SECONDS)
        assert targets(tmp_path).keys() == {f"{role}-0" for role in DRAIN_ORDER}
        for instance, address in targets(tmp_path).items():
            assert get(address, "/readyz")[0] == get(address, "/livez")[0] == 200, instance
        assert cli.run(["replay", "rides.jsonl", "--config", "bikes.toml"]) == 0

        def lag() -> int:
            capsys.readouterr()
            cli.run(["lag", "--json", "--config", "bikes.toml"])
            return int(json.loads(capsys.readouterr().out)["lag_messages"])

        until(lambda: lag() == 0)

        def exported() -> dict[str, set[str]]:
            return {
                instance: {s.name for family in text_string_to_metric_families(get(address)[1]) for s in family.samples}
                for instance, address in targets(tmp_path).items()
            }

        own = {
            "ingest-0": "anchorstream_events_accepted_total",
            "processor-0": "anchorstream_texts_encoded_total",
            "worker-0": "anchorstream_refreshed_users_total",
            "serve-0": "anchorstream_index_vectors",
            "monitor-0": "anchorstream_lag_messages",
        }
        until(lambda: all(name in exported()[instance] for instance, name in own.items()))

        def empty() -> dict[str, set[str]]:
            everything = set().union(*exported().values())
            return {title: names - everything for title, names in panels() if names - everything}

        until(lambda: not empty())  # fields are counted for a minute

        before = targets(tmp_path)["worker-0"]
        up.kill("worker")
        until(lambda: targets(tmp_path)["worker-0"] != before)
        if shutil.which("promtool"):
            (tmp_path / "prometheus.yml").write_text(scrape_config())
            (tmp_path / "deploy").symlink_to(ROOT / "deploy")
            command = ["promtool", "check", "config", "prometheus.yml"]
            checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            assert checked.returncode == 0, checked.stdout + checked.stderr
    assert targets(tmp_path) == {}
