"""Compose and dashboards: what they name exists, and what they promise is set."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import yaml  # type: ignore[import-untyped]

import store.base.metrics as metrics
from deploy.run import launcher
from deploy.settings.config import Settings, load
from deploy.settings.variables import ENV_PREFIX
from stream.lag.status import SEVERITY

DEPLOY = Path(__file__).parents[2] / "deploy"
ROLES = (*launcher.ROLES, "monitor")
NOT_SETTINGS = {"ANCHORSTREAM_CONFIG", "ANCHORSTREAM_SECRETS_DIR", "HOME"}


def assert_is_setting(name: str) -> None:
    """`ANCHORSTREAM_SECTION__KEY` of the configuration, or a variable that is not one."""
    if name in NOT_SETTINGS:
        return
    section, _, key = name.removeprefix(ENV_PREFIX).lower().partition("__")
    model: Any = Settings.model_fields[section].annotation
    assert key in model.model_fields, name


# ---- compose --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))


def test_compose_runs_every_role_by_itself(compose: dict[str, Any]) -> None:
    for role in ROLES:
        service = compose["services"][role]
        assert service["command"] == ["run", role]
        probe = service["healthcheck"]["test"]
        assert probe[:3] == ["CMD", "python", "-c"]
        assert "'http://127.0.0.1:9108/readyz'" in probe[3]
        assert service["environment"]["ANCHORSTREAM_METRICS__PORT"] == "9108"
        assert service["depends_on"]["prepare"]["condition"] == "service_completed_successfully"
        assert service["stop_grace_period"] == "30s"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        for name in service["environment"]:
            assert_is_setting(name)
    assert "healthcheck" in compose["services"]["kafka"]


def test_compose_opens_ports_on_this_host_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_names_files_and_volumes_that_exist(compose: dict[str, Any]) -> None:
    for config in compose["configs"].values():
        load(DEPLOY / config["file"])
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).exists(), source
    target = compose["services"]["ingest"]["build"]["target"]
    stages = re.findall(r"^FROM .* AS (\S+)$", (DEPLOY.parent / "Dockerfile").read_text(), re.M)
    assert target == "${ANCHORSTREAM_TARGET:-cpu}"
    assert {"cpu", "gpu"} <= set(stages)


def test_compose_gives_serve_its_tokens_as_secrets(compose: dict[str, Any]) -> None:
    serve = compose["services"]["serve"]
    assert serve["environment"]["ANCHORSTREAM_SECRETS_DIR"] == "/run/secrets"
    assert set(serve["secrets"]) == set(compose["secrets"]) >= {"anchorstream_serve__read_token"}
    for name, secret in compose["secrets"].items():
        assert_is_setting(name.upper())
        assert secret["environment"]


def test_prepare_is_a_module_of_ours(compose: dict[str, Any]) -> None:
    assert compose["services"]["prepare"]["entrypoint"][:3] == ["python", "-m", "deploy.run.prepare"]
    assert (DEPLOY / "run" / "prepare.py").is_file()


# ---- dashboards -----------------------------------------------------------------------------------------------------


def series() -> set[str]:
    """Names that Prometheus sees of every metric of ours."""
    names = set()
    for metric in vars(metrics).values():
        if isinstance(metric, prometheus_client.metrics.MetricWrapperBase):
            name = next(iter(metric.describe())).name
            if isinstance(metric, prometheus_client.Counter):
                names.add(f"{name}_total")
            elif isinstance(metric, prometheus_client.Histogram):
                names |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"}
            else:
                names.add(name)
    return names


def expressions() -> Iterator[str]:
    board = json.loads((DEPLOY / "dashboards" / "anchorstream.json").read_text())
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for group in yaml.safe_load((DEPLOY / "dashboards" / "alerts.yml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])  # of alerts and of what is recorded for them


def test_every_metric_named_in_dashboards_and_alerts_exists() -> None:
    named = {name for text in expressions() for name in re.findall(r"\banchorstream_\w+", text)}
    assert len(named) > 12
    assert named <= series()


def test_every_alert_says_what_to_do_and_uses_the_right_status() -> None:
    groups = yaml.safe_load((DEPLOY / "dashboards" / "alerts.yml").read_text())["groups"]
    rules = {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}
    for rule in rules.values():
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["action"]
        assert rule["labels"]["severity"] in ("page", "ticket")
    status = {name: int(found[1]) for name, rule in rules.items()
              if (found := re.search(r"group_status\S* [=>]= (\d)", rule["expr"]))}  # fmt: skip
    by_number = {number: str(name) for name, number in SEVERITY.items()}
    assert {name: by_number[number] for name, number in status.items()} == {
        "DataLost": "ahead", "ConsumerStopped": "stopped", "ConsumerStalled": "stalled", "NeverCommitted": "no_commit",
        "ConsumerSlow": "slow", "TransactionOpen": "open_transaction", "EventsUncovered": "no_commit",
        "FreshnessSlow": "slow",
    }  # fmt: skip
    board = json.loads((DEPLOY / "dashboards" / "anchorstream.json").read_text())
    (verdict,) = [panel for panel in board["panels"] if panel["title"] == "Verdict"]
    shown = verdict["fieldConfig"]["defaults"]["mappings"][0]["options"]
    assert {int(number): text["text"] for number, text in shown.items()} == by_number


def test_prometheus_scrapes_the_ports_that_compose_opens() -> None:
    jobs = yaml.safe_load((DEPLOY / "dashboards" / "prometheus.yml").read_text())["scrape_configs"]
    targets = {name: config["port"] for job in jobs for config in job["dns_sd_configs"] for name in config["names"]}
    assert targets == {"ingest": 9108, "processor": 9108, "worker": 9108, "serve": 9108, "monitor": 9108}
