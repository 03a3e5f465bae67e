"""`anchorstream demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number


def demo(
    *,
    users: Annotated[int, Parameter(validator=Number(gte=1), help="Households, at most 2,469.")] = 200,
    weeks: Annotated[int, Parameter(validator=Number(gte=1, lte=49), help="Weeks of their year.")] = 8,
    broker: Annotated[
        Literal["embedded", "local"], Parameter(help="local = Apache Kafka, started for you (Java 17, Maven).")
    ] = "embedded",
    leave: Annotated[bool, Parameter(name="--exit", negative="", help="Stop when all has arrived.")] = False,
    json: Annotated[str | None, Parameter(name="--json", help="Write the summary to this file; - = stdout.")] = None,
    data_dir: Annotated[Path, Parameter(help="The demo's own directory: it is emptied at the start.")] = Path(
        "anchorstream-data/demo"
    ),
    port: Annotated[
        int | None, Parameter(validator=Number(gte=0, lte=65535), help="0 = any free one. Default: 8080 if free.")
    ] = None,
    week_seconds: Annotated[
        float, Parameter(validator=Number(gte=0), help="Send a week of events in this time; 0 = as fast as it goes.")
    ] = 8.0,
    timeout: Annotated[
        float, Parameter(validator=Number(gt=0), help="Seconds after which to give up if not all has arrived.")
    ] = 900.0,
) -> int:
    """Real households end to end on this machine: events in, embeddings and nearest households out.

    Stays up at the printed address until Ctrl-C, unless --exit.
    """
    from deploy.demo.run import Options, run
    from deploy.run.interrupt import stop_on_signals
    from store.base import logs

    logs.configure("demo", level="WARNING")
    with stop_on_signals() as stop:
        return run(Options(users, weeks, broker, data_dir, port, leave, json, timeout, week_seconds), stop)
