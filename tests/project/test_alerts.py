"""Every fault pages once, for its own cause; a healthy system never. `promtool test rules` runs the rules."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml  # type: ignore[import-untyped]

from stream.lag.status import SEVERITY, Status

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "dashboards" / "alerts.yml"
NO_PROMTOOL = "ALERTS NOT RUN: this test needs promtool on PATH (Debian: package prometheus)"
MINUTES = 60
STEPS = MINUTES * 2
TOPICS = {"ingest": "raw", "processor": "as.events", "worker": "as.tokens", "serve": "as.embeddings.churn",
          "freshness": "as.events"}  # fmt: skip
Values = dict[str, str]


def steady(value: float) -> str:
    return f"{value}x{STEPS}"


def growing(per_second: float) -> str:
    return f"0+{30 * per_second:g}x{STEPS}"


def lag_series(role: str, partition: int, name: str) -> str:
    return (
        f'{name}{{group="as.{role}",topic="{TOPICS[role]}",partition="{partition}",instance="m:9108",role="monitor"}}'
    )


def healthy(*, headroom: str = "", busy: bool = True) -> Values:
    """Five roles, serve and worker twice, four partitions each, 100 events a second."""
    series: Values = {}
    for role in ("ingest", "processor", "worker", "serve", "monitor"):
        for instance in ("a", "b") if role in ("worker", "serve") else ("a",):
            job = "anchorstream-serve" if role == "serve" else "anchorstream"
            at = f'role="{role}",instance="{role}-{instance}",job="{job}"'
            series[f"up{{{at}}}"] = series[f"anchorstream_ready{{{at}}}"] = steady(1)
    series['anchorstream_lag_up{instance="m:9108"}'] = steady(1)
    series['anchorstream_lag_unreadable{instance="m:9108"}'] = steady(0)
    series['anchorstream_topic_faults{instance="m:9108"}'] = steady(0)
    for name in "ab":
        at = f'role="serve",instance="serve-{name}",job="anchorstream-serve"'
        series[f"anchorstream_serve_behind_seconds{{{at}}}"] = steady(0.1)
    for role in TOPICS:
        for partition in range(4):
            series[lag_series(role, partition, "anchorstream_lag_status")] = steady(0)
            series[lag_series(role, partition, "anchorstream_lag_seconds")] = steady(0.4)
            series[lag_series(role, partition, "anchorstream_retention_headroom_messages")] = headroom or growing(25)
    if busy:
        series['anchorstream_field_present_ratio{modality="bill",field="amount",instance="ingest-a"}'] = steady(1)
        series['anchorstream_field_present_ratio{modality="bill",field="voucher",instance="ingest-a"}'] = steady(0.02)
        series['anchorstream_events_accepted_total{modality="bill",instance="ingest-a"}'] = growing(100)
        series['anchorstream_events_dead_lettered_total{code="invalid_field",instance="ingest-a"}'] = growing(0.1)
        for le, share in (("0.5", 0.9), ("2.5", 1), ("10", 1), ("30", 1), ("+Inf", 1)):
            name = f'anchorstream_freshness_seconds_bucket{{le="{le}",instance="serve-a"}}'
            series[name] = growing(100 * share)
    return series


def changed(series: Values, *parts: str, to: str | None) -> Values:
    """All series whose name has all of `parts`; None = gone after half the time."""
    found = [name for name in series if all(part in name for part in parts)]
    assert found, parts
    half = STEPS // 2
    gone = {name: f"{series[name].rsplit('x', 1)[0]}x{half} stale" for name in found}
    return series | (dict.fromkeys(found, to) if to is not None else gone)


def status(role: str, value: Status, *, partitions: str = "") -> Values:
    parts = ["lag_status", f'group="as.{role}"', *([f'partition="{partitions}"'] if partitions else [])]
    return changed(healthy(), *parts, to=steady(SEVERITY[value]))


def both(first: Values, second: Values) -> Values:
    base = healthy()
    return first | {name: value for name, value in second.items() if base.get(name) != value}


class Fault(NamedTuple):
    """alert: name and labels of the only one that fires; None = none does."""

    what: str
    series: Values
    alert: tuple[str, dict[str, str]] | None


def down(role: str) -> Values:
    series = changed(healthy(), "anchorstream_ready", f'role="{role}"', to=None)
    if role == "serve":
        series = changed(series, "anchorstream_serve", to=None)
    return changed(series, "up", f'role="{role}"', to=None)


FAULTS = [
    Fault("healthy and loaded", healthy(), None),
    Fault("healthy and idle, young topics", healthy(headroom=steady(0), busy=False), None),
    Fault("a segment is deleted now and then", healthy(headroom=f"{' '.join(['1000+750x19'] * 6)}"), None),
    Fault("worker dead", both(down("worker"), status("worker", Status.STOPPED)), ("RoleDown", {"role": "worker"})),
    Fault("worker dead, freshness stalls", both(both(down("worker"), status("worker", Status.STOPPED)),
          status("freshness", Status.STALLED)), ("RoleDown", {"role": "worker"})),
    Fault("worker frozen", both(both(changed(healthy(), "anchorstream_ready", 'role="worker"', to=None),
          changed(healthy(), "up{", 'role="worker"', to=steady(0))), status("worker", Status.STOPPED)),
          ("RoleDown", {"role": "worker"})),
    Fault("ingest dead, nothing waits", down("ingest"), ("RoleDown", {"role": "ingest"})),
    Fault("serve dead", both(down("serve"), both(status("serve", Status.STALLED), status("freshness", Status.STALLED))),
          ("RoleDown", {"role": "serve"})),
    Fault("processor runs and never gets ready", both(
          changed(healthy(), "anchorstream_ready", 'role="processor"', to=steady(0)),
          status("processor", Status.STOPPED)), ("RoleDown", {"role": "processor"})),
    Fault("one of two serves frozen", both(changed(healthy(), "up{", "serve-b", to=steady(0)),
          both(changed(healthy(), "anchorstream_ready", "serve-b", to=None),
               changed(healthy(), "anchorstream_serve", "serve-b", to=None))),
          ("InstanceDown", {"role": "serve", "instance": "serve-b", "job": "anchorstream-serve"})),
    Fault("one of two serves answers and does not read", changed(healthy(), "anchorstream_serve", "serve-b",
          to=growing(1)), ("ServeBehind", {"role": "serve", "instance": "serve-b", "job": "anchorstream-serve"})),
    Fault("serve answers and does not read", both(changed(healthy(), "anchorstream_serve", to=None),
          both(status("serve", Status.STALLED), status("freshness", Status.STALLED)) | {
          'anchorstream_serve_behind_seconds{role="serve",instance="c",job="anchorstream-serve"}': growing(1)}),
          ("ServeBehind", {"role": "serve", "instance": "c", "job": "anchorstream-serve"})),
    Fault("monitor dead", changed(changed(changed(healthy(), "anchorstream_lag", to=None), "up{", "monitor", to=None),
          "ready", "monitor", to=None), ("LagUnreadable", {})),
    Fault("broker away", changed(healthy(), "anchorstream_lag_up", to=steady(0)), ("LagUnreadable", {})),
    Fault("one group may not be described", changed(healthy(), "anchorstream_lag_unreadable", to=steady(1)),
          ("LagUnreadable", {})),
    Fault("a raw topic is deleted", changed(changed(healthy(), "anchorstream_lag_unreadable", to=steady(1)),
          'topic="raw"', to=None), ("LagUnreadable", {})),
    Fault("retention or cleanup policy of a topic of ours is changed", changed(healthy(), "topic_faults", to=steady(1)),
          ("TopicsMisconfigured", {})),
    Fault("dead-letters, or another topic that no lag is read of, is deleted",
          changed(healthy(), "topic_faults", to=steady(1)), ("TopicsMisconfigured", {})),
    Fault("worker alive, not in its group", status("worker", Status.STOPPED),
          ("ConsumerStopped", {"group": "as.worker", "role": "worker"})),
    Fault("worker hangs", both(status("worker", Status.STALLED), status("freshness", Status.STALLED)),
          ("ConsumerStalled", {"group": "as.worker", "role": "worker"})),
    Fault("a quota of the broker is far too low for the worker", both(status("worker", Status.STALLED),
          status("freshness", Status.STALLED)), ("ConsumerStalled", {"group": "as.worker", "role": "worker"})),
    Fault("one partition hangs", status("processor", Status.STALLED, partitions="2"),
          ("ConsumerStalled", {"group": "as.processor", "role": "processor"})),
    Fault("commits never made, or forgotten", status("processor", Status.NO_COMMIT),
          ("NeverCommitted", {"group": "as.processor", "role": "processor"})),
    Fault("worker too slow", both(both(status("worker", Status.SLOW), status("freshness", Status.SLOW)), {
          'anchorstream_freshness_seconds_bucket{le="10",instance="serve-a"}': growing(0),
          'anchorstream_freshness_seconds_bucket{le="2.5",instance="serve-a"}': growing(0),
          'anchorstream_freshness_seconds_bucket{le="0.5",instance="serve-a"}': growing(0)}),
          ("ConsumerSlow", {"group": "as.worker", "role": "worker"})),
    Fault("slow, though nothing is behind", healthy() | {
          'anchorstream_freshness_seconds_bucket{le="10",instance="serve-a"}': growing(0),
          'anchorstream_freshness_seconds_bucket{le="2.5",instance="serve-a"}': growing(0),
          'anchorstream_freshness_seconds_bucket{le="0.5",instance="serve-a"}': growing(0)}, ("FreshnessSlow", {})),
    Fault("a scenario that no worker can compute", status("freshness", Status.STALLED),
          ("EventsUncovered", {"group": "as.freshness", "role": "freshness"})),
    Fault("a group was set back", status("ingest", Status.REWOUND, partitions="1"),
          ("DataLost", {"group": "as.ingest", "role": "ingest"})),
    Fault("retention passed a stopped reader", both(down("ingest"), status("ingest", Status.REWOUND)),
          ("DataLost", {"group": "as.ingest", "role": "ingest"})),
    Fault("committed beyond the end", status("ingest", Status.AHEAD),
          ("DataLost", {"group": "as.ingest", "role": "ingest"})),
    Fault("retention comes near a stopped reader", changed(changed(both(down("ingest"),
          status("ingest", Status.STOPPED)), "headroom", 'group="as.ingest"', to=f"100000-750x{STEPS}"),
          "lag_seconds", 'group="as.ingest"', to=growing(1)),
          ("RetentionNear", {"group": "as.ingest", "topic": "raw"})),
    Fault("a producer's transaction stays open", status("ingest", Status.OPEN_TRANSACTION),
          ("TransactionOpen", {"group": "as.ingest", "role": "ingest"})),
    Fault("a tenth of the events is refused", healthy() | {
          'anchorstream_events_dead_lettered_total{code="invalid_field",instance="ingest-a"}': growing(10)},
          ("DeadLetters", {"code": "invalid_field"})),
    Fault("a producer renames a field", changed(healthy(), "field_present", "amount", to=f"1x{STEPS // 2} 0x{STEPS}"),
          ("FieldMissing", {"modality": "bill", "field": "amount"})),
    Fault("one of two producers renames a field", changed(healthy(), "field_present", "amount",
          to=f"1x{STEPS // 2} 0.4x{STEPS}"), ("FieldMissing", {"modality": "bill", "field": "amount"})),
    Fault("the configuration names a field that nobody sends", healthy() | {
          'anchorstream_field_present_ratio{modality="bill",field="amuont",instance="ingest-a"}': steady(0)},
          ("FieldMissing", {"modality": "bill", "field": "amuont"})),
    Fault("snapshots cannot be written", healthy() | {
          'anchorstream_snapshot_failures_total{role="serve",instance="serve-a",job="anchorstream-serve"}':
          growing(0.03)},
          ("SnapshotFailing", {"role": "serve", "instance": "serve-a", "job": "anchorstream-serve"})),
    Fault("a token buffer is damaged", healthy() | {
          'anchorstream_state_set_aside_total{role="worker",instance="worker-a",job="anchorstream"}':
          f"0x{STEPS - 20} 1x20"}, ("StateDamaged", {
          "role": "worker", "instance": "worker-a", "job": "anchorstream"})),
    Fault("serve and workers have different queries for a scenario", healthy() | {
          f'anchorstream_other_query{{scenario="churn",instance="serve-{name}"}}': steady(1) for name in "ab"},
          ("QueryDiffers", {"scenario": "churn"})),
    Fault("an embeddings topic is deleted, and may not be made anew", changed(changed(healthy(),
          "anchorstream_lag_unreadable", to=steady(1)), 'topic="as.embeddings.churn"', to=None), ("LagUnreadable", {})),
    Fault("the worker's disk is full", both(down("worker"), status("worker", Status.STOPPED)),
          ("RoleDown", {"role": "worker"})),
    Fault("a state folder is deleted under a running role", healthy(), None),
    Fault("every event is refused, none was ever accepted", {
          name: value for name, value in healthy().items() if "accepted" not in name}, ("DeadLetters", {
          "code": "invalid_field"})),
]  # fmt: skip


def alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


ALSO = dict.fromkeys(
    ("retention comes near a stopped reader", "retention passed a stopped reader"), ("RoleDown", {"role": "ingest"})
)
"""Faults of which two things must be done at once."""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_a_fault_pages_for_its_cause_and_for_nothing_else(fault: Fault, tmp_path: Path) -> None:
    expected = [found for found in (fault.alert, ALSO.get(fault.what)) if found is not None]
    checks = []
    for name, rule in alerts().items():
        labels = [{**of, **rule["labels"]} for known, of in expected if known == name]
        checks.append(
            {
                "eval_time": f"{MINUTES - 1}m",
                "alertname": name,
                # annotations are part of the comparison; they are judged in test_manifests
                "exp_alerts": [{"exp_labels": of} for of in labels],
            }
        )
    bare = yaml.safe_load(RULES.read_text())
    for group in bare["groups"]:
        for rule in group["rules"]:
            rule.pop("annotations", None)
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(bare))
    test = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "30s",
        "tests": [
            {
                "interval": "30s",
                "input_series": [{"series": name, "values": values} for name, values in fault.series.items()],
                "alert_rule_test": checks,
            }
        ],
    }
    run_promtool(test, tmp_path)


def run_promtool(test: dict[str, Any], folder: Path) -> None:
    """`promtool test rules` of this."""
    if shutil.which("promtool") is None:
        pytest.skip(NO_PROMTOOL)
    (folder / "test.yml").write_text(yaml.safe_dump(test))
    command = ["promtool", "test", "rules", "test.yml"]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_two_serves_do_not_double_the_vectors_of_the_index(tmp_path: Path) -> None:
    """E14."""
    board = json.loads((ROOT / "deploy" / "dashboards" / "anchorstream.json").read_text())
    ((target,),) = (panel["targets"] for panel in board["panels"] if panel["title"] == "Index vectors")
    series = [
        {"series": f'anchorstream_index_vectors{{scenario="churn",instance="serve-{name}"}}', "values": "1000 1000"}
        for name in "ab"
    ]
    expected = [{"labels": '{scenario="churn"}', "value": 1000}]
    asked = {"expr": target["expr"], "eval_time": "30s", "exp_samples": expected}
    tests = [{"interval": "30s", "input_series": series, "promql_expr_test": [asked]}]
    run_promtool({"evaluation_interval": "30s", "tests": tests}, tmp_path)
