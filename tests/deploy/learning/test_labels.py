"""Labels out of files: formats, times as the events have theirs, and labels however they are written."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deploy.learning.labels import read_labels
from encoder.learning.tuning.labels import Label
from stream.settings import MappingSettings, TimeUnit

NOON = int(datetime(2025, 3, 1, 12, tzinfo=UTC).timestamp()) * 1000


def read(path: Path, zone: str = "UTC", **mapping: Any) -> list[Label]:
    return list(read_labels(path, MappingSettings(**mapping), zone))


@pytest.mark.parametrize(
    ("value", "label"),
    [("0", "0"), ("1", "1"), ("1.0", "1"), ("true", "1"), ("False", "0"), ("gold", "gold"), (" gold ", "gold")],
)
def test_labels_of_text(tmp_path: Path, value: str, label: str) -> None:
    path = tmp_path / "labels.csv.gz"
    path.write_bytes(gzip.compress(f"ts,label,user_id,more\n{NOON},{value},17850,x\n".encode()))
    assert read(path) == [Label("17850", NOON, label)]


@pytest.mark.parametrize("values", [[1, 0], [1.0, 0.0], [True, False]])
def test_parquet(tmp_path: Path, values: list[Any]) -> None:
    times = pa.array([datetime(2025, 3, 1, 12, tzinfo=UTC)] * 2, pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"user_id": [17850, 3], "ts": times, "label": values}), tmp_path / "labels.parquet")
    assert read(tmp_path / "labels.parquet") == [Label("17850", NOON, "1"), Label("3", NOON, "0")]


@pytest.mark.parametrize(
    ("ts", "mapping"),
    [
        ("2025-03-01T12:00:00Z", {}),
        ("2025-03-01T13:00:00+01:00", {}),
        (str(NOON), {}),
        (str(NOON // 1000), {"ts_unit": TimeUnit.SECONDS}),
        ("01/03/2025 07:00", {"ts_pattern": "%d/%m/%Y %H:%M", "ts_zone": "America/New_York"}),
    ],
)
def test_times_are_read_as_those_of_the_events(tmp_path: Path, ts: str, mapping: dict[str, Any]) -> None:
    (tmp_path / "labels.csv").write_text(f"user_id,ts,label\na,{ts},1\n")
    assert read(tmp_path / "labels.csv", **mapping) == [Label("a", NOON, "1")]


def test_a_day_begins_at_the_models_midnight(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("user_id,ts,label\na,2025-03-01,1\n")
    (found,) = read(tmp_path / "labels.csv", "America/New_York")
    assert found.ts == NOON - 7 * 3_600_000
