"""The statistics judged alone: without a model, at several times that a vector may stand at."""

from __future__ import annotations

from collections.abc import Callable

from deploy.learning.complete_journey import load_data_set, load_settings
from encoder.learning.baselines.hand_made import logs
from encoder.learning.evaluation.evaluation import Evaluation, shared
from encoder.learning.evaluation.statistic_groups import GROUPS, groups
from encoder.learning.evaluation.table import Table
from encoder.learning.moments import Stand, moments, statistics_at
from encoder.statistics import statistics
from store.window.silence import SilenceTicks


def table_of_statistics(show: Callable[[float, str], object], *, ablation: bool) -> Table:
    """Of Complete Journey: one row per stand, the hand-made features, and without each group of statistics."""
    settings = load_settings()
    data = load_data_set(settings, lambda done, text: show(0.55 * done, text))
    asked = moments(data.tasks)
    show(0.55, "counting hand-made features")
    hand_made = logs(data.hand_made["base"](asked))
    matrices = statistics_at(
        data.windows,
        asked,
        list(Stand),
        ticks=SilenceTicks(settings.model.silence_days),
        zone=data.zone,
        on_progress=lambda done, of: show(0.6 + 0.3 * done / of, f"{done:,} of {of:,} windows"),
    )
    evaluation = Evaluation(data.tasks)
    show(0.9, "fitting probes")
    now = shared(matrices[Stand.NOW], asked.place)
    chosen = evaluation.choose(now)
    strength = chosen.strength or 0.0
    table = Table([task.name for task in data.tasks], {})
    for i, (stand, matrix) in enumerate(matrices.items()):
        show(0.95 + i / 100, f"fitting {stand}")
        table.methods[stand] = chosen if stand is Stand.NOW else evaluation.fit(shared(matrix, asked.place), strength)
    table.methods["logistic"] = evaluation.choose(shared(hand_made, asked.place))
    if ablation:
        group = groups(statistics.names(data.windows.history.settings))
        for i, name in enumerate(GROUPS):
            show(0.99, f"without {name}, {i + 1} of {len(GROUPS)}")
            table.methods[f"without {name}"] = evaluation.fit(now, strength, kept=group != name)
    first = str(Stand.NOW)
    for name, method in table.methods.items():
        if name != first:
            table.differences[first, name] = evaluation.difference(table.methods[first], method)
    return table
