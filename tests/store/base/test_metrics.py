"""E2: a role exports what it measures, and nothing that another one does."""

from __future__ import annotations

import subprocess
import sys

import pytest
from prometheus_client import generate_latest
from prometheus_client.metrics import MetricWrapperBase

from store.base import metrics


def test_every_metric_without_labels_has_a_role() -> None:
    ours = {name: m for name, m in vars(metrics).items() if isinstance(m, MetricWrapperBase)}
    assert len(ours) > 30
    placed = {m for of in metrics.WITHOUT_LABELS.values() for m in of}
    assert {name for name, m in ours.items() if not m._labelnames and m not in placed} == set()
    assert {name for name, m in ours.items() if m._labelnames and m in placed} == set()


@pytest.mark.parametrize("role", metrics.WITHOUT_LABELS)
def test_a_role_exports_nothing_of_others(role: str) -> None:
    """In a process that has measured nothing yet: a 0 of `anchorstream_lag_up` made an alert fire for ever."""
    code = (
        "from prometheus_client import generate_latest; from store.base import metrics; "
        f"print(generate_latest(metrics.registry({role!r})).decode())"
    )
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    found = {line.split()[0].split("{")[0] for line in text.splitlines() if line.startswith("anchorstream_")}
    expected = {s.name for m in metrics.WITHOUT_LABELS[role] for family in m.collect() for s in family.samples}
    assert found == expected
    assert "process_cpu_seconds_total" in text


def test_what_has_labels_is_exported_where_it_is_measured() -> None:
    metrics.READY.labels("ingest").set(1)
    assert b'anchorstream_ready{role="ingest"} 1.0' in generate_latest(metrics.registry("ingest"))


def test_a_retired_scenario_leaves_no_series() -> None:
    """Names come and go: series of counters stayed for ever."""
    ours = [m for m in vars(metrics).values() if isinstance(m, MetricWrapperBase) and "scenario" in m._labelnames]
    assert len(ours) > 5
    assert {*ours} == {m for of in metrics.OF_SCENARIO.values() for m in of}
    for m in ours:
        m.labels(*("retired-one" if name == "scenario" else "any" for name in m._labelnames))
    for role in metrics.OF_SCENARIO:
        metrics.forget_scenario(role, "retired-one")
    assert b"retired-one" not in generate_latest(metrics.registry("serve"))
