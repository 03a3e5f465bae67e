"""Every cell of the table of faults names something that there is, and every alert has a row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deploy.operate.doctor import CHECKS
from deploy.run.launcher import DRAIN_ORDER
from deploy.run.supervisor import EventKind
from store.base import logs
from stream.lag.status import SEVERITY, Status
from tests.project.test_alerts import FAULTS, alerts
from tests.project.test_error_codes import documented
from tests.support import fault_table

ROOT = Path(__file__).parents[2]
ROWS = fault_table.read()
ROOMS = {
    "ingest": "stream/ingest stream/kafka stream/raw_topics deploy/run",
    "processor": "stream/processor stream/token_log stream/kafka store/buffer deploy/run",
    "worker": "encoder stream/token_log stream/kafka stream/scenarios store/buffer deploy/run",
    "serve": "store/http store/index stream/serve stream/scenarios stream/kafka deploy/run",
    "monitor": "stream/lag stream/kafka deploy/run",
}
"""Where a role's lines come from."""


def test_every_fault_has_its_row_and_every_row_its_fault() -> None:
    assert list(ROWS) == [fault.what for fault in FAULTS]
    for fault in FAULTS:
        assert ROWS[fault.what].alert == (fault.alert[0] if fault.alert else None)
    assert {row.alert for row in ROWS.values() if row.alert} == set(alerts())


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.fault)
def test_statuses_exist_and_do_not_contradict_the_alert(row: fault_table.Row) -> None:
    for role, status in row.statuses.items():
        if role == "error":
            assert status in documented("Failures")
        else:
            assert status in set(Status)
            assert role in ("", "freshness")
    series = next(fault.series for fault in FAULTS if fault.what == row.fault)
    given = {int(values.split("x")[0]) for name, values in series.items() if "anchorstream_lag_status{" in name}
    if set(row.statuses) <= {"", "freshness"} and row.statuses.get("") != Status.UNKNOWN:
        # what the alerts were tried with is what the row says
        expected = {SEVERITY[Status(status)] for status in row.statuses.values()}
        assert max(expected) == max(given)


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.fault)
def test_findings_exist(row: fault_table.Row) -> None:
    assert row.findings.keys() <= {name for name, _ in CHECKS}


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.fault)
def test_what_is_logged_is_logged_by_whom_it_is_said_to_be(row: fault_table.Row) -> None:
    constants = {value: name for name, value in vars(logs).items() if name.isupper() and isinstance(value, str)}
    for who, events in row.logged.items():
        for event in events:
            if who == "up":
                assert event in set(EventKind)
            elif event == fault_table.CLIENT:
                assert who == "all roles"
            elif event.startswith("error "):
                assert event.removeprefix("error ") in documented("Failures")
            else:
                rooms = set(ROOMS[who].split()) if who != "all roles" else set.intersection(*map(_rooms, ROOMS))
                used = [path for room in rooms for path in (ROOT / room).rglob("*.py")
                        if re.search(rf"\blogs\.{constants[event]}\b", path.read_text())]  # fmt: skip
                assert used, f"{who} never logs {event}"


def _rooms(role: str) -> set[str]:
    return set(ROOMS[role].split())


def test_all_roles_are_looked_at() -> None:
    assert set(ROOMS) == set(DRAIN_ORDER)


@pytest.mark.parametrize(
    "line",
    [
        "| x | fine | ok | – | – |",
        "| x | `ok` | perhaps | – | – |",
        "| x | `ok` | ok | `role_died` | – |",
    ],
)
def test_a_cell_that_says_nothing_is_no_row(line: str, tmp_path: Path) -> None:
    head = "| " + " | ".join(fault_table.HEAD) + " |"
    (tmp_path / "lag.md").write_text(f"{fault_table.TITLE}\n\n{head}\n|---|---|---|---|---|\n{line}\n")
    with pytest.raises(AssertionError):
        fault_table.read(tmp_path / "lag.md")
