"""`anchorstream export SCENARIO`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from deploy.commands.common import Common

if TYPE_CHECKING:
    from deploy.operate.export import Exported
    from deploy.settings.config import Settings


def export(
    scenario: str,
    *,
    to: Annotated[Path, Parameter(help="File: .parquet, .npy or .jsonl.")],
    source: Annotated[
        Literal["service", "topic"], Parameter(help="Ask the service, or read the scenario's topic (needs no service).")
    ] = "service",
    gone: Annotated[
        bool,
        Parameter(
            negative="", help="Also users of whom nothing is known any more, while the topic has their last record."
        ),
    ] = False,
    url: Annotated[str | None, Parameter(help="Service; default: the one on the data directory.")] = None,
    common: Common | None = None,
) -> None:
    """Write all embeddings of a scenario, as of now, to a file.

    .parquet: a row a user, the vector as a list of float32. .npy: a float32 array, and NAME.users.txt with the user
    of each row. .jsonl: what the service answers, a line a user. --gone needs --source topic.
    """
    from deploy import output
    from deploy.operate.export_files import save
    from store.base.errors import ConfigError

    common = common or Common()
    settings = common.settings()
    if gone and source != "topic":
        raise ConfigError("the service knows nothing of users who are gone", action="add --source topic")
    started = time.monotonic()
    models: Counter[str] = Counter()
    left = 0

    def counted(rows: Iterable[Exported]) -> Iterator[Exported]:
        nonlocal left
        for row in rows:
            models[row.record.model] += 1
            left += row.gone
            yield row

    with output.progress("export", quiet=common.json) as bar:

        def show(done: int, of: int) -> None:
            bar.update(done / max(of, 1), f"{done:,} of {of:,} {'records' if source == 'service' else 'messages'}")

        users = save(to, counted(_rows(settings, scenario, source, url, show, gone=gone)))
    result = {
        "scenario": scenario,
        "path": str(to),
        "users": users,
        "gone": left,
        "models": dict(models),
        "bytes": to.stat().st_size,
        "seconds": round(time.monotonic() - started, 3),
    }
    if common.json:
        output.write_json(result)
        return
    of_them = f", {left:,} of them gone" if gone else ""
    output.note(f"{users:,} users{of_them} of {scenario} in {output.duration(time.monotonic() - started)}: {to}")
    if len(models) > 1:
        shares = ", ".join(f"{model}: {n:,}" for model, n in models.most_common())
        output.note(f"of several models, whose vectors are not comparable (a back-fill is under way?): {shares}")


def _rows(
    settings: Settings,
    scenario: str,
    source: str,
    url: str | None,
    on_progress: Callable[[int, int], object],
    *,
    gone: bool,
) -> Iterator[Exported]:
    from deploy.brokers import connect
    from deploy.operate.export import from_service, from_topic, registration_of
    from deploy.operate.service_client import Service
    from stream.topics import Topics

    if source == "service":
        return from_service(Service.find(settings, url), scenario, on_progress)
    connection, topics = connect(settings, timeout_s=5.0), Topics(settings.kafka)
    registration = registration_of(settings, connection, topics, scenario)
    return from_topic(connection, topics, scenario, registration, on_progress, gone=gone)
