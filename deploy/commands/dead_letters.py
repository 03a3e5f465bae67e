"""`anchorstream dead-letters`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from deploy.commands.common import Common

if TYPE_CHECKING:
    from deploy.settings.config import Settings
    from stream.dead_letters.replay import LetterTally
    from stream.kafka.client import Connection

app = App(name="dead-letters", help="Refused events: list, show, replay.")

PREVIEW_BYTES = 60


@app.command(name="list")
def list_letters(
    *,
    error: Annotated[str | None, Parameter(help="Only this code (docs/errors.md).")] = None,
    topic: Annotated[str | None, Parameter(help="Only from this raw topic.")] = None,
    limit: Annotated[int, Parameter(validator=Number(gte=0), help="Show this many; all are counted.")] = 20,
    oldest: Annotated[bool, Parameter(negative="", help="The oldest, not the newest.")] = False,
    common: Common | None = None,
) -> None:
    """Refused events with their reason, and how many there are of each code."""
    from deploy import output
    from stream.dead_letters import read as dead_letters

    common = common or Common()
    connection, name = _open(common.settings())
    with output.progress("reading", quiet=common.json) as bar:
        found = dead_letters.find(
            connection,
            name,
            error=error,
            source_topic=topic,
            limit=limit,
            oldest_first=oldest,
            on_progress=lambda done, of: bar.update(done / max(of, 1), f"{done:,} of {of:,}"),
        )
    if common.json:
        letters = [{**letter.to_dict(), "replayed": letter.id in found.replayed_ids} for letter in found.letters]
        output.write_json(
            {"total": found.total, "counts": found.counts, "replayed": found.replayed, "letters": letters}
        )
        return
    if found.letters:
        output.write_table(
            ("id", "refused (UTC)", "error", "replayed", "source", "detail", "value"),
            [
                (
                    letter.id, output.moment(letter.at), letter.error, "yes" if letter.id in found.replayed_ids else "",
                    shown["source"], letter.detail, shown["value"],
                )
                for letter in found.letters
                for shown in [letter.to_dict(preview_bytes=PREVIEW_BYTES)]
            ],
        )  # fmt: skip
    rows = [(code, n, found.replayed.get(code, 0)) for code, n in found.counts.items()]
    output.write_table(("error", "events", "replayed"), rows, right=("events", "replayed"))
    output.write_pairs({"total": found.total, "replayed": sum(found.replayed.values())})


@app.command(name="show")
def show_letter(
    letter: str,
    *,
    raw: Annotated[
        bool, Parameter(negative="", help="Only the original bytes, as they are, to standard output.")
    ] = False,
    common: Common | None = None,
) -> None:
    """One refused event (its id is PARTITION:OFFSET, from `list`), with its original bytes."""
    from deploy import output
    from store.base.errors import NotFoundError
    from stream.dead_letters import read as dead_letters

    common = common or Common()
    partition, _, offset = letter.partition(":")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise NotFoundError(f"{letter!r} is not an id", action="an id is PARTITION:OFFSET, from `dead-letters list`")
    connection, name = _open(common.settings())
    found = dead_letters.get(connection, name, int(partition), int(offset))
    if raw:
        sys.stdout.buffer.write(found.value or b"")
        sys.stdout.buffer.flush()
        return
    shown = found.to_dict(preview_bytes=len(found.value or b"") + 1)
    if common.json:
        output.write_json(shown)
        return
    output.write_pairs({**shown, "at": output.moment(found.at)})


@app.command(name="replay")
def replay_letters(
    *,
    fixed_by: Annotated[
        Path | None,
        Parameter(help="An executable that mends them: JSON Lines in and out (docs/operations.md)."),
    ] = None,
    error: Annotated[str | None, Parameter(help="Only this code (docs/errors.md).")] = None,
    topic: Annotated[str | None, Parameter(help="Only from this raw topic.")] = None,
    limit: Annotated[int | None, Parameter(validator=Number(gte=1), help="Send at most this many.")] = None,
    again: Annotated[bool, Parameter(negative="", help="Also those that were replayed before.")] = False,
    reset_clock: Annotated[
        bool,
        Parameter(negative="", help="Let the clocks of their raw partitions begin anew with them (clock = stream)."),
    ] = False,
    dry_run: Annotated[bool, Parameter(negative="", help="Do everything but send.")] = False,
    timeout: Annotated[
        float, Parameter(validator=Number(gt=0), help="Seconds in which the script may neither read nor answer.")
    ] = 60.0,
    common: Common | None = None,
) -> int:
    """Send refused events to their raw topics again, once what refused them is mended.

    What ingest would refuse again stays, and is counted by the reason. Each is sent once; repeating is safe.
    """
    from contextlib import ExitStack

    from deploy import output
    from deploy.run.interrupt import stop_on_signals
    from stream.dead_letters.replay import Choice, DeadLetterReplay
    from stream.dead_letters.script import LetterScript
    from stream.topics import Topics

    common = common or Common()
    settings = common.settings()
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        script = LetterScript(fixed_by, stop=stop, timeout_seconds=timeout) if fixed_by else None
        connection, _ = _open(settings)
        bar = stack.enter_context(output.progress("dead letters", quiet=common.json))
        replay = DeadLetterReplay(
            connection,
            Topics(settings.kafka),
            settings.modalities,
            settings.ingest,
            mapping=settings.mapping,
            stop=stop,
            on_progress=lambda what, done, of: bar.update(done / max(of, 1), f"{what}: {done:,} of {of:,}"),
        )
        tally = replay.run(Choice(error, topic, limit, again, reset_clock), mender=script, dry_run=dry_run)
    _show(tally, dry_run=dry_run, as_json=common.json)
    if tally.interrupted:
        return 130
    return 0 if tally.complete else 1


def _show(tally: LetterTally, *, dry_run: bool, as_json: bool) -> None:
    from deploy import output

    shown = [{"id": name, "code": why.code, "detail": why.detail} for name, why in tally.shown]
    if as_json:
        output.write_json(
            {
                "dry_run": dry_run,
                "matched": tally.matched,
                "replayed": tally.replayed,
                "already_replayed": tally.already,
                "left": dict(tally.left.most_common()),
                "first_left": shown,
                "not_reached": tally.not_reached,
                "seconds": round(tally.seconds, 3),
                "interrupted": tally.interrupted,
            }
        )
        return
    if tally.left:
        output.write_table(("left", "events"), tally.left.most_common(), right=("events",))
    for left in shown:
        output.note(f"left {left['id']}: {left['code']}: {left['detail']}")
    output.write_pairs(
        {
            "matched": tally.matched,
            "would be replayed" if dry_run else "replayed": tally.replayed,
            "replayed before": tally.already,
            "left": tally.left.total(),
            "not reached": tally.not_reached,
        }
    )


def _open(settings: Settings) -> tuple[Connection, str]:
    from deploy.brokers import connect
    from stream.topics import Topics

    return connect(settings, timeout_s=5.0), Topics(settings.kafka).dead_letters
