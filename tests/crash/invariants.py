"""What must hold of a system at any time, whatever it was made to be: in its windows, metrics and lag."""

from __future__ import annotations

import math
import time
import urllib.request
from collections.abc import Iterable, Mapping

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from deploy.operate.service_client import Service
from store.base.settings import ModalitySettings
from store.window.user_window import UserWindow

SETTLE_SECONDS = 120.0
"""lag remembers a window of a minute."""
SIGNED = {"anchorstream_retention_headroom_messages"}
"""May be below 0, and says something then."""


def windows_within_bounds(windows: Mapping[str, UserWindow], modalities: Mapping[str, ModalitySettings]) -> None:
    """No more rows than `max_events`, none older than the window is long."""
    for user, window in windows.items():
        for name, rows in window.modalities.items():
            settings = modalities[name]
            assert len(rows.names) <= settings.max_events, (user, name)
            if len(rows.ts):
                assert rows.ts[-1] - rows.ts[0] <= settings.window_days * 86_400_000, (user, name)


class Counts:
    """What processes have counted, from one look to the next."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, dict[tuple[str, ...], float]]] = {}

    def look(self, urls: Mapping[str, str], pids: Mapping[str, int]) -> None:
        """Every process answers, with numbers that can be: finite, not negative where nothing can be, and no count
        below the last one of the same process. It says of itself that it works, and the monitor that it can read.

        Args:
            urls, pids: by the process's name.

        Raises:
            AssertionError: what is wrong, and where.
        """
        for name, url in urls.items():
            role = name.rpartition("-")[0]
            families = _once_ready(url, name, role)
            counts: dict[tuple[str, ...], float] = {}
            for family in families:
                for sample in family.samples:
                    assert math.isfinite(sample.value), (name, sample)
                    assert sample.value >= 0 or family.name in SIGNED, (name, sample)
                    if family.type in ("counter", "histogram") and not sample.name.endswith("_created"):
                        counts[sample.name, *map(str, sorted(sample.labels.items()))] = sample.value
            pid, before = self._seen.get(name, (0, {}))
            if pid == pids[name]:
                for key, value in before.items():
                    assert counts.get(key, 0.0) >= value, (name, key, value, counts.get(key))
            self._seen[name] = (pids[name], counts)
            if role == "monitor":
                _until_it_reads(url, name)


def _metrics(url: str) -> list[Metric]:
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        return list(text_string_to_metric_families(answer.read().decode()))


def _find(families: Iterable[Metric], process: str, name: str, value: float, **labels: str) -> None:
    found = [s.value for family in families for s in family.samples if s.name == name and s.labels == labels]
    assert found == [value], f"{process}: {name}{labels} is {found}"


def _once_ready(url: str, process: str, role: str) -> list[Metric]:
    """One that was started anew may have had nothing to do with what was drained meanwhile."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        families = _metrics(url)
        try:
            _find(families, process, "anchorstream_ready", 1.0, role=role)
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return families


def _until_it_reads(url: str, process: str) -> None:
    """A reading of the monitor may have failed while the broker was away."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        try:
            families = _metrics(url)
            _find(families, process, "anchorstream_lag_up", 1.0)
            _find(families, process, "anchorstream_lag_unreadable", 0.0)
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        else:
            return
        time.sleep(0.5)


def lag_is_ok(service: Service) -> None:
    """Nothing waits, and what serve remembers of the last minute is no cause for concern by the end of the next."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        report = service.get("/v1/lag")
        if report["lag_messages"] == 0 and report["status"] == "ok":
            return
        assert time.monotonic() < deadline, [p for p in report["partitions"] if p["status"] != "ok"]
        time.sleep(1.0)
