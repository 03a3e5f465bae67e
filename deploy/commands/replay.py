"""`anchorstream replay FILE…`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from deploy.commands.common import Common

Positive = Number(gt=0)


def replay(
    *files: str,
    rate: Annotated[float | None, Parameter(validator=Positive, help="At most this many events a second.")] = None,
    speed: Annotated[
        float | None,
        Parameter(
            validator=Positive, help="Keep the events' own pace, this many times faster (3600 = an hour a second)."
        ),
    ] = None,
    sort: Annotated[
        bool, Parameter(negative="", help="Merge the files by event time (each in order itself), not one by one.")
    ] = False,
    resume: Annotated[
        Path | None, Parameter(help="Keep the position in this file, and go on from it if it is there.")
    ] = None,
    topic: Annotated[str | None, Parameter(help="The raw topic of rows that name no modality.")] = None,
    form: Annotated[
        Literal["jsonl", "csv", "parquet"] | None,
        Parameter(name="--format", help="What is in the files, whatever their names say."),
    ] = None,
    delimiter: Annotated[str | None, Parameter(help='Of CSV; "tab" for tabulators. Default: a comma.')] = None,
    encoding: Annotated[str, Parameter(help="Of CSV.")] = "utf-8",
    common: Common | None = None,
) -> int:
    """Publish files (.jsonl, .csv, .parquet, each plain or .gz, .zst, .bz2; - = JSON Lines on standard input).

    Every row goes to a raw topic as one JSON object; ingest refuses bad ones into dead letters.
    """
    from deploy import output
    from deploy.run.interrupt import stop_on_signals
    from store.base.errors import ConfigError
    from stream.replay.open_files import FileOptions, Format, open_rows
    from stream.replay.replay import Pace, ReplayProgress
    from stream.replay.resume import ResumeFile

    common = common or Common()
    settings = common.settings()
    if not files:
        raise ConfigError("no file was given", action="anchorstream replay events.jsonl …, or - for standard input")
    raw = {modality.topic for modality in settings.modalities.values()}
    if topic is not None and topic not in raw:
        raise ConfigError(f"--topic {topic}: no raw topic; configured: {', '.join(sorted(raw))}", action="name one")
    options = FileOptions(Format(form) if form else None, delimiter, encoding)
    with ExitStack() as stack:
        opened = [stack.enter_context(open_rows(path, options)) for path in files]
        for file in opened:
            file.check()
        position = ResumeFile.of(resume, opened, merge=sort) if resume else None
        skip = position.load() if position else 0
        stop = stack.enter_context(stop_on_signals())
        bar = stack.enter_context(output.progress("replay", quiet=common.json))

        def show(now: ReplayProgress) -> None:
            eta = f", {output.duration(now.eta_seconds)} left" if now.eta_seconds is not None else ""
            bar.update(now.done or -1, f"{now.sent:,} events, {now.rate:,.0f}/s{eta}")

        from deploy.operate.publish import publish_files

        done = publish_files(
            settings,
            opened,
            pace=Pace(rate, speed),
            skip=skip,
            merge=sort,
            topic=topic,
            stop=stop,
            on_progress=show,
            on_acknowledged=(lambda lines: position.save(skip + lines)) if position else None,
        )
    result = {
        "published": done.sent,
        "bytes": done.bytes,
        "skipped": done.skipped,
        "unsent": done.unsent,
        "first_unsent": done.first_unsent,
        "seconds": round(done.seconds, 3),
        "rate": round(done.rate, 1),
        "interrupted": done.interrupted,
    }
    if common.json:
        output.write_json(result)
    else:
        skipped = f", {done.skipped:,} skipped" if done.skipped else ""
        output.note(f"{done.sent:,} events published in {output.duration(done.seconds)} ({done.rate:,.0f}/s){skipped}")
    for what in done.first_unsent:
        output.note(f"not sent: {what}")
    if done.unsent:
        output.note(f"{done.unsent:,} lines could not be sent")
        return 1
    return 130 if done.interrupted else 0
