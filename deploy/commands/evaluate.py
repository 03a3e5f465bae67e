"""`anchorstream evaluate`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from deploy.settings.config import Settings
    from encoder.forward.user_encoder import UserEncoder
    from encoder.learning.evaluation.data_set import DataSet
    from encoder.learning.evaluation.methods import Name
    from encoder.learning.evaluation.table import Method, Table

    Show = Callable[[float, str], object]

_PLAIN_LINE_SECONDS = 15.0
_READING = 0.2


def evaluate(
    *,
    data: Annotated[
        Literal["completejourney", "online_retail"], Parameter(help="Data set with tasks and a split by time.")
    ] = "completejourney",
    file: Annotated[Path | None, Parameter(help="online_retail: the public table, as Parquet.")] = None,
    checkpoint: Annotated[
        list[Path] | None,
        Parameter(help="Directory of a checkpoint; default: the preset's. More of them: other seeds of the same."),
    ] = None,
    methods: Annotated[
        str,
        Parameter(help="Some, with commas between; default: all but gru and coles."),
    ] = "",
    event_tokens: Annotated[bool, Parameter(help="False: of the model, vectors from summaries alone.")] = True,
    freshness: Annotated[bool, Parameter(negative="", help="Also read from vectors 1, 7 and 28 days old.")] = False,
    noise: Annotated[bool, Parameter(negative="", help="Also with other users' events among the user's.")] = False,
    instructions: Annotated[
        bool, Parameter(negative="", help="Also with vectors for other questions than the tasks' own.")
    ] = False,
    statistics: Annotated[
        bool, Parameter(negative="", help="Judge the statistics alone: what users' tokens are told, no model.")
    ] = False,
    ablation: Annotated[
        bool, Parameter(negative="", help="With --statistics: also without each group of them in turn.")
    ] = False,
    plots: Annotated[
        Path | None, Parameter(help="Folder for freshness.svg and noise.svg, of what is asked for.")
    ] = None,
    json: Annotated[str | None, Parameter(name="--json", help="Write the table to this file; - = stdout.")] = None,
) -> None:
    """How well what the system knows of users tells what they do next: AUC and KS per task.

    Windows are those the token buffer would hold at each moment; answers of test rows lie after all that was fitted.
    """
    from deploy import output
    from deploy.benches.report import commit, machine
    from deploy.demo.journey import HONESTY
    from encoder.learning.baselines.boosted import lightgbm
    from encoder.learning.baselines.probe import sklearn
    from store.base import logs
    from store.base.errors import ConfigError

    logs.configure("cli", level="ERROR")
    if ablation and not statistics:
        raise ConfigError("--ablation is of statistics", action="add --statistics")
    if statistics and data != "completejourney":
        raise ConfigError(f"--statistics is not for {data}", action="--methods statistics judges them there")
    if plots is not None and not (freshness or noise):
        raise ConfigError("--plots are of what is varied", action="add --freshness or --noise")
    wanted = _names(methods)
    sklearn()  # what would fail after minutes fails at once
    if not statistics and (not wanted or {"lightgbm", "lightgbm_long", "stacked"} & {*wanted}):
        lightgbm()
    output.check_json_path(json)
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    if data == "completejourney":
        output.note(HONESTY)
    elif file is None or not file.is_file():
        where = "--file is not given" if file is None else f"{file} is not there"
        output.note(f"{data}: skipped, {where}. It is public (UCI, doi 10.24432/C5BW33): fetch it, name it by --file.")
        return
    with output.progress("evaluate", lines_seconds=_PLAIN_LINE_SECONDS) as bar:
        if statistics:
            from deploy.learning.statistics import table_of_statistics

            table = table_of_statistics(bar.update, ablation=ablation)
        else:
            changes = {"event_tokens": event_tokens}
            varied = [
                name for name, on in (("freshness", freshness), ("noise", noise), ("instructions", instructions)) if on
            ]
            table = _table(data, file, checkpoint or [], wanted, changes, bar.update, varied)
    seconds = time.monotonic() - begun
    if json != "-":
        write(table)
        output.note(f"{data}: in {output.duration(seconds)}")
    if plots is not None:
        from deploy.learning.plots import series

        for what in table.series.keys() & {"freshness", "noise"}:
            series(plots / f"{what}.svg", what, table.series[what])
    if json is not None:
        about = {"data": data, "machine": machine(), "commit": commit(), "seconds": round(seconds, 1)}
        output.write_json_to(json, about | table.to_dict())


def write(table: Table) -> None:
    """The table, how sure the differences are, and what was varied."""
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
    for what, by_method in table.series.items():
        steps = list(next(iter(by_method.values()), {}))
        rows = [[name, *(f"{found[step].mean_auc:.4f}" for step in steps)] for name, found in by_method.items()]
        if what == "seeds":
            steps = [*steps, "mean", "deviation"]
            rows = [[*row, *_spread(found)] for row, found in zip(rows, by_method.values(), strict=True)]
        output.write_table(["method", *steps], rows, title=f"{what}: mean AUC", right=steps)


def _spread(found: Mapping[str, Method]) -> list[str]:
    from statistics import mean, stdev

    values = [method.mean_auc for method in found.values()]
    return [f"{mean(values):.4f}", f"{stdev(values):.4f}"]


def _interval(low: float, high: float) -> str:
    return f"{low:+.4f} … {high:+.4f}"


def _names(methods: str) -> list[Name]:
    """Raises ConfigError: a name is none."""
    from encoder.learning.evaluation.methods import Name
    from store.base.errors import ConfigError

    asked = [name.strip() for name in methods.split(",") if name.strip()]
    unknown = [name for name in asked if name not in {*Name}]
    if unknown:
        raise ConfigError(f"there is no method {unknown[0]!r}", action=f"--methods takes {', '.join(Name)}")
    return [name for name in Name if name in asked]


def _table(
    data: str,
    file: Path | None,
    checkpoints: Sequence[Path],
    wanted: Sequence[Name],
    changes: Mapping[str, object],
    show: Show,
    varied: Sequence[str],
) -> Table:
    from deploy import output
    from encoder.learning.evaluation import variations
    from encoder.learning.evaluation.methods import TRAINED_HERE, Methods, available

    settings, made = _load(data, file, lambda done, text: show(_READING * done, text))
    settings = settings.model_copy(update={"model": settings.model.model_copy(update=changes)})
    show(_READING, "loading the model")
    of_model = partial(_encoder, settings, made)
    trained, seeded = of_model(next(iter(checkpoints), settings.model.checkpoint)), of_model("none")
    known = available(made, trained=trained is not None and trained.card is not None)
    if lacking := [name for name in wanted if name not in known]:
        output.note(f"left out: {', '.join(lacking)}, which need a checkpoint or features that are not here")
    elif trained.card is None:
        output.note("no checkpoint: the model is untrained, and only `random` is judged of it")
    asked = [name for name in known if name in wanted] if wanted else [n for n in known if n not in TRAINED_HERE]
    methods = Methods(made, asked, trained=trained, seeded=seeded)
    of = 1 + len(varied) + (len(checkpoints) > 1)
    parts = iter(range(of))

    def part() -> Show:
        begin = _READING + (1 - _READING) * next(parts) / of
        return lambda done, text: show(begin + (1 - _READING) * done / of, text)

    table = methods.table(part())
    if len(checkpoints) > 1:
        encoders = {str(path): of_model(path) for path in checkpoints[1:]}
        table.series["seeds"] = variations.seeds(methods, table, str(checkpoints[0]), encoders, part())
    vary = {"freshness": variations.freshness, "noise": variations.noise, "instructions": variations.instructions}
    for what in varied:
        if what == "noise" and made.noisy is None:
            output.note(f"--noise is not for {data}")
            continue
        table.series[what] = vary[what](methods, table, part())
    return table


def _load(data: str, file: Path | None, show: Show) -> tuple[Settings, DataSet]:
    if data == "completejourney":
        from deploy.learning import complete_journey

        settings = complete_journey.load_settings()
        return settings, complete_journey.load_data_set(settings, show)
    from deploy.learning import online_retail

    settings = online_retail.load_settings()
    return settings, online_retail.load_data_set(settings, file or Path(), show)


def _encoder(settings: Settings, made: DataSet, checkpoint: Path | str) -> UserEncoder:
    """The model with a checkpoint: a directory, or as `model.checkpoint` names it."""
    from encoder.forward.user_encoder import UserEncoder

    own = {"kv_pool_bytes": 0, "checkpoint": checkpoint}  # pages would never be read again
    return UserEncoder(settings.model.model_copy(update=own), settings.modalities, {}, made.windows.history.dim)
