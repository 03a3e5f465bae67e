"""`anchorstream replay FILE…`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from deploy.commands.common import Common

if TYPE_CHECKING:
    from deploy.output import Bar
    from stream.replay.replay import ReplayProgress

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
    common: Common | None = None,
) -> int:
    """Publish files (.jsonl, .csv, .parquet, each plain or .gz, .zst, .bz2; - = JSON Lines on standard input).

    Every row goes to a raw topic as one JSON object; ingest refuses bad ones into dead letters.
    """
    from deploy import output
    from deploy.brokers import connect
    from deploy.operate.publish import Publishing, publish_files
    from deploy.run.interrupt import stop_on_signals
    from store.base.errors import AnchorstreamError, ConfigError
    from store.base.stop import Stopped, obey
    from stream.replay.open_files import FileOptions, Format, open_rows
    from stream.replay.order import Merging
    from stream.replay.replay import Pace, ReplayProgress
    from stream.replay.resume import ResumeFile

    common = common or Common()
    settings = common.settings()
    if not files:
        raise ConfigError("no file was given", action="anchorstream replay events.jsonl …, or - for standard input")
    raw = {modality.topic for modality in settings.modalities.values()}
    if topic is not None and topic not in raw:
        raise ConfigError(f"--topic {topic}: no raw topic; configured: {', '.join(sorted(raw))}", action="name one")
    max_ahead_ms = settings.ingest.max_ahead_ms(m.window_ms for m in settings.modalities.values())
    merge = Merging(max_ahead_ms, sort_memory << 20, temp_dir) if sort else None
    options = FileOptions(Format(form) if form else None, delimiter, encoding)
    progress = ReplayProgress()
    with ExitStack() as stack:
        opened = [stack.enter_context(open_rows(path, options)) for path in files]
        connection = connect(settings, timeout_s=5.0)
        position = (
            ResumeFile.of(resume, opened, merge=sort, broker=connection.history or connection.identity)
            if resume
            else None
        )
        skip = position.load() if position else []
        stop = stack.enter_context(stop_on_signals())
        bar = stack.enter_context(output.progress("replay", quiet=common.json, lines_seconds=LINES_SECONDS))

        def checking() -> None:
            obey(stop)
            bar.update(-1, "checking compressed files")

        try:
            for file in opened:
                file.check(checking)
            publish_files(
                settings,
                connection,
                opened,
                Publishing(Pace(rate, speed), topic, merge, position, skip),
                stop=stop,
                on_progress=lambda now: show(bar, now),
                progress=progress,
            )
        except Stopped:
            progress.interrupted = True
        except AnchorstreamError:
            if progress.sent:
                output.note(f"{progress.sent:,} events were published before this:")
            raise
    if common.json:
        output.write_json(result(progress))
    else:
        skipped = f", {progress.skipped:,} skipped" if progress.skipped else ""
        took = output.duration(progress.seconds)
        output.note(f"{progress.sent:,} events published in {took} ({progress.rate:,.0f}/s){skipped}")
    for place in progress.left:
        output.note(f"not sent, the line may go on: {place} (--resume sends it once it has its newline)")
    for what in progress.first_unsent:
        output.note(f"not sent: {what}")
    if progress.unsent:
        output.note(f"{progress.unsent:,} lines could not be sent")
        return 1
    return 130 if progress.interrupted else 0


def show(bar: Bar, now: ReplayProgress) -> None:
    """What is done, and why it waits."""
    from deploy import output

    if now.phase:
        bar.update(now.done, now.phase)
        return
    eta = f", {output.duration(now.eta_seconds)} left" if now.eta_seconds is not None else ""
    waiting = f"; waits for {now.waiting}" if now.waiting else ""
    bar.update(now.done or -1, f"{now.sent:,} events, {now.rate:,.0f}/s{eta}{waiting}")


def result(done: ReplayProgress) -> dict[str, Any]:
    """For `--json`."""
    return {
        "published": done.sent,
        "bytes": done.bytes,
        "skipped": done.skipped,
        "unsent": done.unsent,
        "first_unsent": done.first_unsent,
        "left": done.left,
        "seconds": round(done.seconds, 3),
        "rate": round(done.rate, 1),
        "interrupted": done.interrupted,
    }
