"""`anchorstream replay FILE…`."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from deploy.commands.common import Common

Positive = Number(gt=0)
LINES_SECONDS = 5.0
"""Without a terminal there is a line this often."""


def replay(
    *files: str,
    topic: Annotated[str | None, Parameter(help="The raw topic of rows that name no modality.")] = None,
    form: Annotated[
        Literal["jsonl", "csv", "parquet"] | None,
        Parameter(name="--format", help="What is in the files, whatever their names say."),
    ] = None,
    delimiter: Annotated[str | None, Parameter(help='Of CSV; "tab" for tabulators. Default: a comma.')] = None,
    encoding: Annotated[str, Parameter(help="Of CSV.")] = "utf-8",
    rate: Annotated[float | None, Parameter(validator=Positive, help="At most this many events a second.")] = None,
    speed: Annotated[
        float | None,
        Parameter(
            validator=Positive, help="Keep the events' own pace, this many times faster (3600 = an hour a second)."
        ),
    ] = None,
    sort: Annotated[
        bool, Parameter(negative="", help="Merge the files by event time; those that are not in order are sorted.")
    ] = False,
    sort_memory: Annotated[
        int, Parameter(validator=Positive, help="MiB of memory for sorting; the rest goes to temporary files.")
    ] = 64,
    temp_dir: Annotated[Path | None, Parameter(help="Where these are; default TMPDIR.")] = None,
    resume: Annotated[
        Path | None, Parameter(help="Keep the position in this file, and go on from it if it is there.")
    ] = None,
    dry_run: Annotated[bool, Parameter(negative="", help="Judge all rows, send nothing; needs no broker.")] = False,
    force: Annotated[
        bool,
        Parameter(negative="", help="Send even what would not be accepted, or by other settings than `up` has."),
    ] = False,
    no_wait: Annotated[bool, Parameter(negative="", help="Do not wait for ingest's verdicts.")] = False,
    wait: Annotated[bool, Parameter(negative="", help="Until everything published is queryable.")] = False,
    timeout: Annotated[
        float | None, Parameter(validator=Positive, help="Of --wait, seconds; then the exit code is 1. Default: none.")
    ] = None,
    common: Common | None = None,
) -> int:
    """Publish files (.jsonl, .csv, .parquet, each plain or .gz, .zst, .bz2; - = JSON Lines on standard input).

    Every row goes to a raw topic as one JSON object; ingest refuses bad ones into dead letters. The first thousand rows
    of each file are judged before anything is sent.
    """
    from deploy import output
    from deploy.operate import replay_report as report
    from deploy.operate.ingested import IngestWatch
    from deploy.operate.preflight import check_in_force, judge_all, judge_samples
    from deploy.operate.publish import Publishing, open_broker, publish_files, router_of, wait_until_restored
    from deploy.operate.queryable import not_queryable, wait_queryable
    from deploy.run.interrupt import stop_on_signals
    from store.base.errors import AnchorstreamError, ConfigError
    from store.base.stop import Stopped, obey
    from stream.replay.open_files import FileOptions, Format, open_rows
    from stream.replay.order import Merging
    from stream.replay.pace import Pace
    from stream.replay.replay import ReplayProgress
    from stream.replay.resume import ResumeFile

    common = common or Common()
    settings = common.settings()
    if not files:
        raise ConfigError("no file was given", action="anchorstream replay events.jsonl …, or - for standard input")
    raw = {modality.topic for modality in settings.modalities.values()}
    if wait and (no_wait or dry_run):
        raise ConfigError(f"--wait and --{'no-wait' if no_wait else 'dry-run'}", action="choose one of the two")
    if timeout is not None and not wait:
        raise ConfigError("--timeout without --wait", action="--wait is what it bounds")
    if topic is not None and topic not in raw:
        raise ConfigError(f"--topic {topic}: no raw topic; configured: {', '.join(sorted(raw))}", action="name one")
    max_ahead_ms = settings.ingest.max_ahead_ms(m.window_ms for m in settings.modalities.values())
    merge = Merging(max_ahead_ms, sort_memory << 20, temp_dir) if sort else None
    options = FileOptions(Format(form) if form else None, delimiter, encoding)
    router, progress = router_of(settings, topic), ReplayProgress()
    with ExitStack() as stack:
        opened = [stack.enter_context(open_rows(path, options)) for path in files]
        connection = None if dry_run else open_broker(settings)
        position, skip = None, [0] * len(opened)
        if resume and connection is not None:
            position = ResumeFile.of(resume, opened, merge=sort, broker=connection.history or connection.identity)
            skip = position.load()
        stop = stack.enter_context(stop_on_signals())
        bar = stack.enter_context(output.progress("replay", quiet=common.json, lines_seconds=LINES_SECONDS))

        def tick() -> None:
            obey(stop)
            bar.update(-1 if connection else progress.done, "checking the files")

        try:
            for file in opened:
                file.check(tick)
            if connection is None:
                preflight = judge_all(settings, opened, router, merge=merge, progress=progress, tick=tick)
            else:
                preflight = judge_samples(settings, opened, router, skip=skip, by_time=sort)
        except Stopped:
            return 130
        useless = [] if force else preflight.useless
        if not common.json:
            report.write_verdicts(preflight)
        if connection is None or useless:
            if common.json:
                output.write_json(report.result(progress, preflight, None))
            if useless:
                raise report.nothing_accepted(useless, settings.ingest)
            return 0
        if not force:
            check_in_force(settings)
        try:
            waits = "waits for the broker, which is being given back the {:,} messages that it kept"
            wait_until_restored(settings, stop, lambda left: bar.update(-1, waits.format(left)))
            watch = stack.enter_context(IngestWatch(connection, settings))
            publish_files(
                settings,
                connection,
                opened,
                Publishing(Pace(rate, speed), topic, merge, position, skip),
                stop=stop,
                on_progress=lambda now: report.show_progress(bar, now),
                progress=progress,
            )
        except Stopped:
            return 130
        except AnchorstreamError:
            if progress.sent:
                output.note(f"{progress.sent:,} events were published before this:")
            raise
        ingested = watch.wait(
            progress,
            stop,
            lambda read, of: bar.update(read / max(of, 1), f"ingest has read {read:,} of {of:,}"),
            wait=not (no_wait or progress.interrupted),
        )
        queryable = None
        if wait and not stop.is_set():
            bar_of = report.waiting_json if common.json else partial(report.show_waiting, bar)
            queryable = wait_queryable(settings, connection, stop, bar_of, timeout_seconds=timeout)
    if common.json:
        output.write_json(report.result(progress, preflight, ingested, queryable))
    else:
        report.write_result(progress, ingested, queryable)
    for place in progress.left:
        output.note(f"not sent, the line may go on: {place} (--resume sends it once it has its newline)")
    for what in progress.first_unsent:
        output.note(f"not sent: {what}")
    if progress.unsent:
        output.note(f"{progress.unsent:,} rows could not be sent")
        return 1
    if progress.interrupted or stop.is_set():
        return 130
    if queryable is not None and not queryable.done:
        raise not_queryable(queryable)
    return int(progress.sent > 0 and ingested.accepted == 0)
