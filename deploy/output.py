"""What commands print: results to standard output (tables, or JSON with --json), everything else to standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from store.base.errors import AnchorstreamError, ConfigError

if TYPE_CHECKING:
    from rich.console import Console

PIPE_COLUMNS = 240
"""Width of tables where standard output is no terminal, so that a row stays one line for grep."""


def write_json(data: Any) -> None:
    """One JSON document, to standard output."""
    _write_json(data, sys.stdout)


def write_json_to(path: str | None, data: Any) -> None:
    """The same for `--json FILE`. path: - = standard output; None = nowhere."""
    if path == "-":
        write_json(data)
    elif path is not None:
        with Path(path).open("w", encoding="utf-8") as file:
            _write_json(data, file)


def check_json_path(path: str | None) -> None:
    """That `write_json_to` will not fail after minutes of work.

    Raises:
        ConfigError: the file cannot be written.
    """
    if path in (None, "-"):
        return
    try:
        with Path(str(path)).open("a", encoding="utf-8"):
            pass
    except OSError as exc:
        raise ConfigError(f"--json {path}: {exc.strerror}", action="name a file that can be written") from exc


def _write_json(data: Any, file: TextIO) -> None:
    file.write(json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n")
    file.flush()


def write_error(error: AnchorstreamError, *, as_json: bool = False) -> None:
    """An expected failure: what, and what to do, without a traceback."""
    if as_json:
        problem = {"error": error.code, "detail": error.detail, "action": error.action}
        _to_stderr(json.dumps(problem, ensure_ascii=False))
        return
    _to_stderr(printable(f"error [{error.code}]: {error.detail}", "\n\t"))
    if error.action:
        _to_stderr(f"  → {error.action}")


def note(text: str) -> None:
    """A line for people, on standard error, so that it never mixes with a result."""
    _to_stderr(printable(text, "\n\t"))


def _to_stderr(line: str) -> None:
    # a terminal that was closed is no reason to leave what was begun: roles are still to be drained
    with suppress(OSError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def note_result(text: str) -> None:
    """A line of a result, on standard output, as soon as it is known."""
    sys.stdout.write(printable(text, "\n\t") + "\n")
    sys.stdout.flush()


def console() -> Console:
    """Rich console on standard output."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_COLUMNS
    return Console(file=sys.stdout, highlight=False, width=width)


def write_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None, right: Sequence[str] = ()
) -> None:
    """A table on standard output; `right` names the columns of numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # Text: what people wrote, brackets too, is no markup
    shown = None if title is None else Text(printable(title), "table.title")
    table = Table(title=shown, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    console().print(table)


def write_pairs(pairs: Mapping[str, object]) -> None:
    """Names and values, one a line."""
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        sys.stdout.write(f"{printable(name):<{width}}  {_cell(value)}\n")
    sys.stdout.flush()


class Bar(Protocol):
    """A progress bar, or nothing where standard error is no terminal."""

    def update(self, done: float, text: str) -> None:
        """`done` between 0 and 1; below 0 = unknown."""


@contextmanager
def progress(label: str, *, quiet: bool = False, lines_seconds: float | None = None) -> Iterator[Bar]:
    """A progress bar on standard error, while it is a terminal and not `quiet`.

    lines_seconds: where it is no terminal, a line this often; None = nothing.
    """
    if quiet or not sys.stderr.isatty():
        yield _NoBar() if quiet or lines_seconds is None else LineBar(label, lines_seconds)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as live:
        yield _RichBar(live, live.add_task(label, total=None, text=""))


class _NoBar:
    def update(self, done: float, text: str) -> None:
        """Nothing."""


class LineBar:
    """A line now and then."""

    def __init__(self, label: str, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._label, self._seconds, self._clock = label, seconds, clock
        self._due = clock() + seconds

    def update(self, done: float, text: str) -> None:
        """Write it if it is time."""
        now = self._clock()
        if now >= self._due:
            self._due = now + self._seconds
            note(f"{self._label}: {f'{done:.0%}, ' if done >= 0 else ''}{text}")


class _RichBar:
    def __init__(self, live: Any, task: Any) -> None:
        self._live, self._task = live, task

    def update(self, done: float, text: str) -> None:
        """Redraw."""
        total, completed = (1.0, min(done, 1.0)) if done >= 0 else (None, 0.0)
        self._live.update(self._task, total=total, completed=completed, text=text)


def moment(ms: int | None) -> str:
    """A time stamp for people: UTC, to the second."""
    return "–" if not ms else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float | None) -> str:
    """Seconds for people: `0.42 s`, `12 s`, `3 min 05 s`, `2 h 03 min`."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}"
    return printable(str(value))


def printable(text: str, keep: str = "") -> str:
    """Text that comes from data, so that a terminal takes it for nothing else: control characters as `\\x1b`.

    keep: characters that stay all the same.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)
