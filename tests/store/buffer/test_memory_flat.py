"""A token buffer takes no more memory and disk after many events than after few, as long as the users are the same.

MEMORY_EVENTS: how many (default 300,000; 10,000,000 by hand).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from tests.support.memory_child import BATCH, DUPLICATES, USERS, WINDOW, Figures

EVENTS = int(os.environ.get("MEMORY_EVENTS", "300000"))
GROWTH = 1.10
DISK_PER_ROW_BYTE = 1.3
PER_SECOND = 1500
"""So slow it never is: for the time limit."""
ROOT = Path(__file__).parents[3]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120 + EVENTS // PER_SECOND),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc"),
]


def test_memory_and_disk_stay_flat(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.memory_child", str(tmp_path / "b"), str(EVENTS)]
    out = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    got = Figures(**json.loads(out))
    tenth = len(got.resident) // 10
    middle = median(got.resident[len(got.resident) // 2 - tenth : len(got.resident) // 2])
    end = median(got.resident[-tenth:])
    figures = (
        f"{EVENTS} events in {got.seconds:.0f} s; MB resident: middle {middle / 1e6:.1f}, end {end / 1e6:.1f}, "
        f"most {max(got.resident) / 1e6:.1f}; {got.rows} rows of {got.row_bytes / 1e6:.1f} MB, "
        f"disk {got.disk / 1e6:.1f} MB"
    )
    print(figures)  # noqa: T201
    assert end <= GROWTH * middle, figures
    assert got.outcomes["applied"] + got.outcomes["duplicate"] == EVENTS // BATCH * BATCH, "all counted"
    assert got.outcomes["duplicate"] >= EVENTS // DUPLICATES * 0.9
    full = USERS * (3 * WINDOW + 2)  # a summary for each window
    assert full * 0.9 <= got.rows <= full * 1.05, "both windows and the memory are full, and no fuller"
    assert got.disk <= DISK_PER_ROW_BYTE * got.row_bytes, figures
