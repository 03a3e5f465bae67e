"""`anchorstream dead-letters`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from deploy.commands.common import Common

if TYPE_CHECKING:
    from deploy.config import Settings
    from stream.client import Connection

app = App(name="dead-letters", help="Refused events: list, show.")

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
    from stream import dead_letters

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
        letters = [letter.to_dict() for letter in found.letters]
        output.write_json({"total": found.total, "counts": found.counts, "letters": letters})
        return
    if found.letters:
        output.write_table(
            ("id", "refused (UTC)", "error", "source", "detail", "value"),
            [
                (letter.id, output.moment(letter.at), letter.error, shown["source"], letter.detail, shown["value"])
                for letter in found.letters
                for shown in [letter.to_dict(preview_bytes=PREVIEW_BYTES)]
            ],
        )
    output.write_table(("error", "events"), found.counts.items(), right=("events",))
    output.write_pairs({"total": found.total})


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
    from store.errors import NotFoundError
    from stream import dead_letters

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


def _open(settings: Settings) -> tuple[Connection, str]:
    from deploy.brokers import connect
    from stream.topics import Topics

    return connect(settings, timeout_s=5.0), Topics(settings.kafka).dead_letters
