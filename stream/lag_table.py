"""A lag report as a table for people."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from stream.lag import LagReport
from stream.lag_status import Status

_COLOURS = {
    Status.OK: "green",
    Status.UNKNOWN: "dim",
    Status.SLOW: "yellow",
    Status.NO_COMMIT: "yellow",
    Status.STALLED: "red",
    Status.STOPPED: "red",
    Status.REWOUND: "bold red",
}


def render(report: LagReport, *, partitions: bool = True) -> Group:
    """A row per partition (or only per role), a total per role, and freshness."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("role", "topic", "partition"):
        table.add_column(name)
    for name in ("committed", "end", "lag", "seconds", "eta s"):
        table.add_column(name, justify="right")
    table.add_column("status")
    for group in report.groups():
        rows = [p for p in report.partitions if p.role == group.role]
        if partitions:
            for p in rows:
                table.add_row(
                    p.role,
                    p.topic,
                    str(p.partition),
                    _number(p.committed),
                    str(p.log_end),
                    str(p.lag_messages),
                    _seconds(p.lag_seconds),
                    _seconds(p.eta_seconds),
                    Text(p.status, _COLOURS[p.status]),
                )
        members = "" if group.members is None else f"{group.members} member(s)"
        table.add_row(
            Text(group.role, "bold"),
            Text(members, "dim"),
            "all",
            "",
            "",
            Text(str(group.lag_messages), "bold"),
            _seconds(group.lag_seconds),
            "",
            Text(group.status, _COLOURS[group.status]),
            end_section=partitions,
        )
    lines: list[Table | Text] = [table]
    if report.freshness is not None:
        p50, p99 = report.freshness
        lines.append(Text(f"freshness (event produced → queryable): p50 {_seconds(p50)} s, p99 {_seconds(p99)} s"))
    if report.missing_topics:
        lines.append(Text(f"not on the broker: {', '.join(report.missing_topics)}", "yellow"))
    return Group(*lines)


def _number(value: int | None) -> str:
    return "–" if value is None else str(value)


def _seconds(value: float | None) -> str:
    return "?" if value is None else f"{value:.1f}" if value < 100 else f"{value:.0f}"
