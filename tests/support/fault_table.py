"""The table of faults in docs/lag.md, read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

TITLE = "## Faults, and what says so"
CLIENT = "client's errors"
HEAD = ("fault", "status in `lag`, `/v1/lag`, console", "`doctor`", "log", "alert")


class Row(NamedTuple):
    """What is said of a fault.

    statuses: {role: status}; "" = the role that the fault is about, `error` = no reading but an error of this code.
    findings: {name of doctor's finding: warn or fail}, all others ok. logged: {who: events}; `error x` = an error code;
    CLIENT = lines of the client library.
    """

    fault: str
    statuses: dict[str, str]
    findings: dict[str, str]
    logged: dict[str, tuple[str, ...]]
    alert: str | None


def read(path: Path = Path(__file__).parents[2] / "docs" / "lag.md") -> dict[str, Row]:
    """{fault: row}, in the table's order."""
    section = path.read_text().partition(TITLE)[2].partition("\n## ")[0]
    lines = [tuple(cell.strip() for cell in line.strip("| ").split("|")) for line in section.splitlines()
             if line.startswith("|")]  # fmt: skip
    assert lines[0] == HEAD
    rows = [_row(*cells) for cells in lines[2:]]
    assert len({row.fault for row in rows}) == len(rows)
    return {row.fault: row for row in rows}


def _row(fault: str, statuses: str, doctor: str, log: str, alert: str) -> Row:
    found = re.findall(r"(?:(\w+) )?`(\w+)`", statuses)
    assert found, f"{fault}: no status in {statuses!r}"
    finding = re.fullmatch(r"ok|`([a-z ]+)` (warn|fail)s", doctor)
    assert finding, f"{fault}: {doctor!r} is no finding"
    logged: dict[str, tuple[str, ...]] = {}
    for part in log.split("; ") if log != "–" else ():
        said = re.fullmatch(r"([\w ]+): (`\w+`|error `\w+`|client's errors)", part)
        assert said, f"{fault}: who logs {part!r}?"
        logged[said[1]] = (*logged.get(said[1], ()), said[2].replace("`", ""))
    return Row(
        fault,
        dict(found),
        {finding[1]: finding[2]} if finding[1] else {},
        logged,
        alert.strip("`") if alert != "–" else None,
    )
