"""`anchorstream evaluate`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deploy.settings.config import Settings
    from encoder.learning.evaluation.evaluate import Table
    from encoder.learning.history import History
    from encoder.learning.moments import Moments
    from encoder.learning.tasks.rows import TaskRows

_PLAIN_LINE_SECONDS = 15.0


def evaluate(
    *,
    data: Annotated[
        Literal["completejourney"], Parameter(help="Data set with tasks and a split by time.")
    ] = "completejourney",
    statistics: Annotated[
        bool, Parameter(negative="", help="Judge the statistics alone: what users' tokens are told, no model.")
    ] = False,
    ablation: Annotated[bool, Parameter(negative="", help="Also without each group of statistics in turn.")] = False,
    json: Annotated[str | None, Parameter(name="--json", help="Write the table to this file; - = stdout.")] = None,
) -> None:
    """How well what the system knows of users tells what they do next: AUC and KS per task.

    Windows are those the token buffer would hold at each moment; answers of test rows lie after all that was fitted.
    """
    from deploy import output
    from deploy.benches.report import commit, machine
    from deploy.demo.journey import HONESTY
    from encoder.learning.baselines.probe import sklearn
    from store.base import logs
    from store.base.errors import ConfigError

    logs.configure("cli", level="ERROR")
    if not statistics:
        raise ConfigError("there is nothing to evaluate", action="add --statistics")
    sklearn()  # what would fail after minutes fails at once
    output.check_json_path(json)
    begun = time.monotonic()
    output.note(HONESTY)
    with output.progress("evaluate", lines_seconds=_PLAIN_LINE_SECONDS) as bar:
        table = _of_statistics(bar.update, ablation=ablation)
    seconds = time.monotonic() - begun
    if json != "-":
        write(table)
        output.note(f"{data}: in {output.duration(seconds)}")
    if json is not None:
        about = {"data": data, "machine": machine(), "commit": commit(), "seconds": round(seconds, 1)}
        output.write_json_to(json, about | table.to_dict())


def write(table: Table) -> None:
    """The table, and how sure the differences are."""
    from deploy import output

    columns = ["method", *table.tasks, "mean", "mean KS"]
    rows = [
        [name, *(f"{m.auc[task]:.4f}" for task in table.tasks), f"{m.mean_auc:.4f}", f"{m.mean_ks:.4f}"]
        for name, m in table.methods.items()
    ]
    output.write_table(columns, rows, title="AUC on test rows", right=columns[1:])
    rows = [
        [f"{one} - {other}", *(_interval(*found[task]) for task in (*table.tasks, "mean"))]
        for (one, other), found in table.differences.items()
    ]
    output.write_table(["difference", *table.tasks, "mean"], rows, title="95 % of household bootstraps")


def _interval(low: float, high: float) -> str:
    return f"{low:+.4f} … {high:+.4f}"


def _of_statistics(show: Callable[[float, str], object], *, ablation: bool) -> Table:
    from encoder.learning.evaluation.evaluate import Evaluation, Table
    from encoder.learning.evaluation.statistic_groups import GROUPS, groups
    from encoder.learning.moments import Stand, statistics_at
    from encoder.learning.windows import Windows
    from encoder.statistics import statistics
    from store.window.silence import SilenceTicks

    settings, history, tasks, asked, hand_made = _complete_journey(show)
    matrices = statistics_at(
        Windows(history, int(settings.processor.expiry_granularity_seconds * 1000)),
        asked,
        list(Stand),
        ticks=SilenceTicks(settings.model.silence_days),
        zone=settings.model.time_zone,
        on_progress=lambda done, of: show(0.6 + 0.3 * done / of, f"{done:,} of {of:,} windows"),
    )
    evaluation = Evaluation(tasks, asked.place)
    show(0.9, "fitting probes")
    now = matrices[Stand.NOW]
    chosen = evaluation.choose(now)
    strength = chosen.strength
    table = Table([task.name for task in tasks], {})
    for i, (stand, matrix) in enumerate(matrices.items()):
        show(0.95 + i / 100, f"fitting {stand}")
        table.methods[stand] = chosen if stand is Stand.NOW else evaluation.fit(matrix, strength)
    table.methods["logistic"] = evaluation.choose(hand_made)
    if ablation:
        group = groups(statistics.names(history.settings))
        for i, name in enumerate(GROUPS):
            show(0.99, f"without {name}, {i + 1} of {len(GROUPS)}")
            table.methods[f"without {name}"] = evaluation.fit(now, strength, kept=group != name)
    first = str(Stand.NOW)
    for name, method in table.methods.items():
        if name != first:
            table.differences[first, name] = evaluation.difference(table.methods[first], method)
    return table


def _complete_journey(
    show: Callable[[float, str], object],
) -> tuple[Settings, History, list[TaskRows], Moments, NDArray[np.float32]]:
    """The panel's settings, all its events, its tasks, the moments they ask about, and hand-made features of these."""
    from dataclasses import replace
    from importlib.resources import files

    import numpy as np

    from deploy.brokers.kafka_jars import cache_dir
    from deploy.demo import journey
    from deploy.settings.config import load
    from encoder.learning.baselines.hand_made import HandMade, logs
    from encoder.learning.history import accepted, collect, encoded
    from encoder.learning.moments import moments
    from encoder.learning.tasks import complete_journey
    from encoder.learning.text_vectors import StoredTextVectors
    from encoder.model.text_encoder import TextEncoder

    show(0.0, "reading tables")
    settings = load(Path(str(files("deploy") / "examples" / "journey.toml")))
    tables = journey.load_tables()
    households, tasks = complete_journey.tasks(tables)
    panel: Any = journey.whole(tables)
    lines = len(panel.tables["lines"])
    encoder = StoredTextVectors(TextEncoder(cache_entries=0), cache_dir())
    history = collect(
        encoded(accepted(panel.events(), settings.modalities, settings.mapping), encoder),
        settings.modalities,
        encoder.dim,
        lambda done: show(min(0.6, 0.6 * done / lines / 1.12), f"{done:,} events"),
    )
    encoder.save()
    place = {user: i for i, user in enumerate(history.users)}
    of = np.array([place[journey.user_of(household)] for household in households])
    tasks = [replace(task, users=of[task.users]) for task in tasks]
    asked = moments(tasks)
    show(0.6, "counting hand-made features")
    household_of = np.empty(len(history.users), np.int64)
    household_of[of] = np.arange(len(of))
    made = HandMade(tables)
    hand_made = logs(made.of(household_of[asked.users], complete_journey.days_of(asked.now)))
    return settings, history, tasks, asked, hand_made
