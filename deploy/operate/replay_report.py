"""What `anchorstream replay` prints: verdicts before anything is sent, what was published, what ingest made of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from deploy import output
from store.base.errors import AnchorstreamError
from stream.rejection import ErrorCode
from stream.settings import Clock

if TYPE_CHECKING:
    from deploy.operate.ingested import Ingested
    from deploy.operate.queryable import Progress as Queryable
    from stream.replay.preflight import FileVerdict, Preflight
    from stream.replay.replay import ReplayProgress
    from stream.settings import IngestSettings

_OTHERS_SHOWN = 12


def show_progress(bar: output.Bar, now: ReplayProgress) -> None:
    """What is done, and why it waits."""
    if now.phase:
        bar.update(now.done, now.phase)
        return
    eta = f", {output.duration(now.eta_seconds)} left" if now.eta_seconds is not None else ""
    waiting = f"; waits for {now.waiting}" if now.waiting else ""
    bar.update(now.done or -1, f"{now.sent:,} events, {now.rate:,.0f}/s{eta}{waiting}")


def write_verdicts(preflight: Preflight) -> None:
    """Two tables: what would become of the rows, and fields seen against fields expected."""
    if not any(verdict.rows for verdict in preflight.files.values()):
        for name in preflight.files:
            output.note_result(f"{name}: no row is left to be judged")  # all was published before, or it is empty
        return
    output.write_table(
        ("file", "verdict", "", "rows", "first"),
        [row for verdict in preflight.files.values() for row in _verdicts(verdict)],
        right=("rows",),
    )
    rows = [row for seen in preflight.fields.values() for row in _fields(seen)]
    output.write_table(("topic", "modality", "field", "configured", "rows with it"), rows, right=("rows with it",))


def _verdicts(verdict: FileVerdict) -> Iterator[tuple[object, ...]]:
    of = "all" if verdict.whole else "first"
    yield verdict.file, f"{of} rows", "", verdict.rows, ""
    for modality, count in verdict.accepted.most_common():
        yield "", "accepted", modality, count, ""
    for reason, count in verdict.skipped.most_common():
        yield "", "skipped", reason, count, ""
    for code, refused in sorted(verdict.refused.items(), key=lambda item: -item[1].rows):
        yield "", "refused", code, refused.rows, f"{refused.place}: {refused.detail}"
    if verdict.undecided:
        yield "", "undecided", "ahead of the stream", verdict.undecided, ""


def _fields(seen: Any) -> Iterator[tuple[object, ...]]:
    for name, count in seen.expected.items():
        yield (
            seen.topic,
            seen.modality or "none",
            name,
            "yes" if count else "yes: MISSING",
            f"{count:,} of {seen.rows:,}",
        )
    others = seen.others.most_common()
    for name, count in others[:_OTHERS_SHOWN]:
        yield seen.topic, seen.modality or "none", ascii(name)[1:-1], "", f"{count:,} of {seen.rows:,}"
    if len(others) > _OTHERS_SHOWN:
        yield seen.topic, seen.modality or "none", f"and {len(others) - _OTHERS_SHOWN} more", "", ""


def nothing_accepted(useless: list[FileVerdict], settings: IngestSettings) -> AnchorstreamError:
    """Why a replay stops before it has sent anything."""
    what: list[str] = []
    codes: set[str] = set()
    for verdict in useless:
        codes |= verdict.refused.keys()
        found = sorted(verdict.refused.items(), key=lambda item: -item[1].rows)
        why = f"{found[0][0]}: {found[0][1].detail}" if found else "all would be skipped, as the mapping says"
        what.append(f"{verdict.file}: none of {verdict.rows:,} rows would be accepted; {why}")
    if ErrorCode.TS_TOO_OLD in codes and settings.clock is Clock.WALL:
        action = 'history is replayed with ingest.clock = "stream"'
    elif ErrorCode.INVALID_UTF8 in codes:
        action = "--encoding (CSV) says what the file is written in"
    else:
        action = "mend the file, or say in the configuration how it is to be read ([mapping], docs/producers.md)"
    return AnchorstreamError(
        "; ".join(what), action=f"{action}; --force sends it all the same", code="nothing_accepted"
    )


def show_waiting(bar: output.Bar, now: Queryable) -> None:
    """What is left until all is queryable."""
    left = "" if now.left.seconds is None else f"; about {output.duration(now.left.seconds)} left"
    bar.update(now.share, f"{str(now.left) or 'nearly done'}{left}")


def waiting_json(now: Queryable) -> None:
    """The same for `--json`: an object a line, on standard error."""
    output.note(json.dumps({"waiting": now.to_dict()}))


def result(
    done: ReplayProgress, preflight: Preflight, ingested: Ingested | None, queryable: Queryable | None = None
) -> dict[str, Any]:
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
        "sample": preflight.to_dict(),
        "ingest": None if ingested is None else ingested.to_dict(),
        "queryable": None if queryable is None else queryable.to_dict(),
    }


def write_result(done: ReplayProgress, ingested: Ingested | None, queryable: Queryable | None = None) -> None:
    """For people."""
    skipped = f", {done.skipped:,} skipped" if done.skipped else ""
    output.note(f"{done.sent:,} events published in {output.duration(done.seconds)} ({done.rate:,.0f}/s){skipped}")
    if queryable is not None and queryable.done:
        output.note(f"all queryable {output.duration(queryable.seconds)} after ingest had read them")
    if ingested is None or not ingested.messages:
        return
    if ingested.waiting:
        read = f"ingest has not read {ingested.waiting:,} of {ingested.messages:,} messages"
        output.note(f"{read}: `anchorstream lag` tells whether it runs")
    elif ingested.accepted is not None:
        output.note(f"accepted: {ingested.accepted:,}")
    for reason, count in ingested.skipped.items():
        output.note(f"skipped: {count:,} {reason}")
    for code, count in ingested.refused.most_common():
        output.note(f"refused: {count:,} {code}")
    if ingested.refused:
        output.note("  → anchorstream dead-letters list")
    if ingested.letters_gone:
        output.note(f"refused: {ingested.letters_gone:,} more, whose letters the embedded broker has dropped")
    if ingested.others > 0:
        output.note(f"among these {ingested.others:,} messages of other producers")
