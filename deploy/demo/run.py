"""`anchorstream demo`: real households through the whole system, with the numbers to judge it by."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import output
from deploy.demo import directory, journey, show
from deploy.demo.planting import Planted, plant
from deploy.demo.watch import Status, Watch
from deploy.operate.publish import raw_producer
from deploy.operate.service_client import Service
from deploy.run.attend import tell, wait_ready
from deploy.run.launcher import Launcher
from deploy.run.supervisor import ChildEvent, EventKind
from deploy.settings.config import Settings
from store.base.errors import AnchorstreamError
from stream.account.reader import AccountReader
from stream.account.report import AccountReport
from stream.replay.pace import Pace
from stream.replay.replay import ReplayProgress, Router, replay
from stream.topics import Topics

DEFAULT_PORT = 8080
QUIET_READINGS = 2
"""So many readings in a row must say that all has arrived: one may fall between two topics."""
ACCOUNT_SECONDS = 30.0
"""Until processors have told what they counted, at most."""
_POLL_SECONDS = 0.2
_PLAIN_LINE_SECONDS = 10.0

UNTRAINED = (
    "The embeddings come from a seeded, untrained head: they show that the path works, not that the answers are good."
)


class DemoError(AnchorstreamError):
    """The demo did not come to its end, or its numbers do not add up."""

    code = "demo_failed"


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for. port None = 8080 if it is free, else any. timeout: seconds until all has arrived.

    week_seconds: a week of events is sent in this time; 0 = as fast as the broker takes them.
    """

    users: int
    weeks: int
    broker: str
    data_dir: Path
    port: int | None
    leave: bool
    json_file: str | None
    timeout: float
    week_seconds: float


def run(options: Options, stop: threading.Event) -> int:
    """The whole demo; returns the exit code.

    Raises:
        ConfigError: the file for `--json` cannot be written.
        DemoError: it took too long, or events are not accounted for.
        AnchorstreamError: a part of the system failed.
    """
    begun = time.monotonic()
    households = journey.load(options.users, options.weeks)
    directory.claim(options.data_dir)
    port = _free_port() if options.port is None else options.port
    settings, config = directory.write_config(options.data_dir, broker=options.broker, port=port)
    output.check_json_path(options.json_file)
    output.note(journey.HONESTY)
    output.note(f"starting the {options.broker} broker and the roles (data and logs: {options.data_dir}) …")
    with ExitStack() as stack:
        launcher = Launcher(settings, on_event=_tell_failures)
        stack.callback(launcher.stop)
        launcher.start()
        wait_ready(launcher, stop)
        if stop.is_set():
            return 130
        url = launcher.url or ""
        service = Service.find(settings, url)
        watch = Watch(launcher.connection, settings, service)
        stack.callback(watch.close)
        line = stack.enter_context(_Line())
        deadline = begun + options.timeout
        pace = Pace(speed=7 * 86_400 / options.week_seconds) if options.week_seconds else Pace()
        planted, sent = _publish(settings, launcher, households, pace, watch, line, stop, deadline)
        status = _drain(launcher, watch, line, len(planted.users), stop, deadline)
        line.close()
        if stop.is_set():
            return 130
        summary = _summary(options, settings, launcher, sent, planted, status, time.monotonic() - begun)
        _write(summary, options.json_file)
        show.household(service, settings, households, planted)
        trained = settings.model.checkpoint_directory is not None
        if not trained:
            output.note(UNTRAINED)
        if options.leave:
            return 0
        output.note(f"\n{url} stays up until Ctrl-C. Try:")
        output.note(f"  anchorstream lag --config {config}")
        output.note(f"  anchorstream neighbors {show.chosen(planted)} --config {config}")
        output.note(f"  anchorstream verify --config {config}")
        launcher.supervise(stop)
    return 0


def _publish(
    settings: Settings,
    launcher: Launcher,
    households: journey.Slice,
    pace: Pace,
    watch: Watch,
    line: _Line,
    stop: threading.Event,
    deadline: float,
) -> tuple[Planted, ReplayProgress]:
    planted = Planted()
    looked = 0.0

    def look() -> None:
        nonlocal looked
        if time.monotonic() - looked > _POLL_SECONDS:
            looked = time.monotonic()
            launcher.check()
            _in_time(deadline, watch.status)

    producer, topics = raw_producer(launcher.connection, settings, stop=stop, while_waiting=look)
    router = Router(settings.modalities, topics.dead_letters, settings.mapping)
    messages = plant(households.events(), router, planted, now_ms=int(time.time() * 1000))

    def on_progress(now: ReplayProgress) -> None:
        look()
        line.show(f"{now.sent:,} events published, {now.rate:,.0f}/s; {watch.status.line()}")

    return planted, replay(messages, producer, pace=pace, stop=stop, on_progress=on_progress)


def _drain(launcher: Launcher, watch: Watch, line: _Line, users: int, stop: threading.Event, deadline: float) -> Status:
    quiet, seen = 0, watch.status.readings
    while not stop.wait(_POLL_SECONDS):
        launcher.check()
        status = watch.status
        _in_time(deadline, status)
        line.show(f"all events published; {status.line()}")
        if status.readings > seen:
            seen = status.readings
            quiet = quiet + 1 if status.arrived(users) else 0
            if quiet >= QUIET_READINGS:
                return status
    return watch.status


def _in_time(deadline: float, status: Status) -> None:
    if time.monotonic() > deadline:
        raise DemoError(
            f"not everything arrived in time: {status.line()}",
            action="look at the roles' logs in the data directory; a slow machine needs a longer --timeout",
            code="demo_timeout",
        )


def _summary(
    options: Options,
    settings: Settings,
    launcher: Launcher,
    sent: ReplayProgress,
    planted: Planted,
    status: Status,
    seconds: float,
) -> dict[str, Any]:
    topics = Topics(settings.kafka)
    with closing(AccountReader(launcher.connection, topics, {m.topic for m in settings.modalities.values()})) as reader:
        account = reader.settled(seconds=ACCOUNT_SECONDS)
    _check(account, sent.sent, planted)
    total = account.totals()
    return {
        "broker": options.broker,
        "events": {
            "published": total["published"],
            "accepted": _taken(total),
            "duplicates": total["duplicate"] + total["conflicting"],
            "dead_lettered": account.refused.total(),
        },
        "users": len(planted.users),
        "embeddings": dict(status.embeddings),
        "freshness_seconds": {"p50": _rounded(status.freshness_p50), "p99": _rounded(status.freshness_p99)},
        "lag_messages": status.lag_messages,
        "seconds": round(seconds, 1),
        "dead_letters_by_code": dict(sorted(account.refused.items())),
        "trained": settings.model.checkpoint_directory is not None,
    }


def _taken(total: Mapping[str, int]) -> int:
    return total["applied"] + total["expired"] + total["evicted"] + total["remembered"]


def _check(account: AccountReport, sent: int, planted: Planted) -> None:
    faults = []
    total = account.totals()
    if not (account.adds_up and account.settled) or total["published"] != sent:
        faults.append(f"sent were {sent:,} messages; {'; '.join(account.lines())}")
    if _taken(total) != planted.events or account.refused != Counter(map(str, planted.garbage.elements())):
        faults.append(
            f"sent were {planted.events:,} good events, {planted.duplicates:,} repeated ones and "
            f"{dict(planted.garbage)}; found {_taken(total):,}, {total['duplicate'] + total['conflicting']:,} and "
            f"{dict(account.refused)}"
        )
    if faults:
        raise DemoError("; ".join(faults), action="report this", code="demo_counts")


def _write(summary: Mapping[str, Any], json_file: str | None) -> None:
    events, fresh = summary["events"], summary["freshness_seconds"]
    output.note(
        f"{events['published']:,} events published = {events['accepted']:,} accepted + {events['duplicates']:,} "
        f"duplicates + {events['dead_lettered']:,} dead-lettered; {summary['users']:,} users; "
        f"lag {summary['lag_messages']}; freshness p50 {fresh['p50']} s, p99 {fresh['p99']} s; "
        f"{summary['seconds']:.0f} s in all"
    )
    output.write_json_to(json_file, summary)


def _tell_failures(event: ChildEvent) -> None:
    if event.kind not in (EventKind.STARTED, EventKind.READY, EventKind.STOPPED):
        tell(event)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", DEFAULT_PORT))
        except OSError:
            return 0
    return DEFAULT_PORT


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


class _Line:
    """Live state: a spinner's text on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._shown = time.monotonic()
        self._bar: output.Bar | None = None

    def __enter__(self) -> _Line:
        if sys.stderr.isatty():
            self._bar = self._stack.enter_context(output.progress("demo"))
        return self

    def show(self, text: str) -> None:
        """The latest state."""
        if self._bar is not None:
            self._bar.update(-1, text)
        elif time.monotonic() - self._shown >= _PLAIN_LINE_SECONDS:
            self._shown = time.monotonic()
            output.note(text)

    def close(self) -> None:
        """Clear the line. Idempotent."""
        self._stack.close()
        self._bar = None

    def __exit__(self, *_: object) -> None:
        self.close()
