"""`anchorstream buffer inspect USER`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number

from deploy.commands.common import Common

if TYPE_CHECKING:
    from store.window.user_window import UserWindow

app = App(name="buffer", help="What the token buffer holds of a user.")


@app.command
def inspect(
    user: str,
    *,
    events: Annotated[int, Parameter(validator=Number(gte=0), help="Newest events shown per modality.")] = 10,
    common: Common | None = None,
) -> None:
    """Modalities, events, numbers and what they cover, read from the processor's databases, which may be in use."""
    from contextlib import ExitStack

    from deploy import output
    from deploy.operate.verify import open_views
    from store.base.errors import NotFoundError
    from stream.kafka.partitioner import partition_of

    common = common or Common()
    settings = common.settings()
    with ExitStack() as stack:
        views = open_views(stack, settings.store.data_dir.absolute(), settings.modalities, settings.kafka.topic_prefix)
        partition = partition_of(user, settings.kafka.partitions)
        if (view := views.get(partition)) is None:
            raise NotFoundError(
                f"user {user!r} belongs to partition {partition}, of which there is no token buffer here",
                action="ask where its processor runs; if here, nothing of the partition has come yet",
            )
        window = view.window(user)
        if not window.modalities:
            raise NotFoundError(
                f"no token buffer here knows user {user!r}",
                action="its events may have been refused (`anchorstream dead-letters list`) or be on the way",
            )
        found = describe(window, events)
        found["stream_time"], found["partition"] = view.stream_time, partition
    if common.json:
        output.write_json(found)
        return
    output.write_pairs(
        {
            "user": user,
            "partition": found["partition"],
            "newest event": output.moment(window.newest_event),
            "stream time": output.moment(found["stream_time"]),
            "covers": ", ".join(f"{source}:{offset}" for source, offset in window.covers.items()),
        }
    )
    for name, modality in found["modalities"].items():
        rows = [(output.moment(e["ts"]), e["name"], ", ".join(map(str, e["numbers"]))) for e in modality["events"]]
        title = f"{name}: {modality['rows']:,} rows since {output.moment(modality['oldest'])}"
        output.write_table(("time (UTC)", "event", "numbers"), rows, title=title)


def describe(window: UserWindow, newest: int) -> dict[str, Any]:
    """A user's windows as JSON; `newest` events per modality."""
    return {
        "user_id": window.user_id,
        "newest_event": window.newest_event,
        "covers": window.covers,
        "ingested_at": window.ingested_at,
        "modalities": {
            name: {
                "rows": m.summary.rows,
                "oldest": m.summary.oldest,
                "newest": m.summary.newest,
                "covers": m.summary.covers,
                "events": [
                    # NaN = missing
                    {"ts": ts, "name": event, "numbers": [None if x != x else x for x in numbers]}
                    for ts, event, numbers in list(zip(m.ts.tolist(), m.names, m.numbers.tolist(), strict=True))[
                        max(0, len(m.names) - newest) :
                    ]
                ],
            }
            for name, m in window.modalities.items()
        },
    }
