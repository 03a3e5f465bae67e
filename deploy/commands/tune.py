"""`anchorstream tune SCENARIO`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from deploy.commands.common import Common

if TYPE_CHECKING:
    from deploy.learning.history_source import HistorySource
    from deploy.settings.config import Settings
    from encoder.learning.tuning.run import Run
    from encoder.learning.tuning.settings import TuneSettings
    from encoder.model.settings import ModelSettings

    Show = Callable[[float, str], object]

_PLAIN_LINE_SECONDS = 15.0
_READING = 0.3
"""Of the bar: the history."""
_NAME_CHARS = 54
"""Of a scenario's name, in its prompt's."""


def tune(
    scenario: str,
    *,
    labels: Annotated[Path | None, Parameter(help="File of user_id, ts, label, as `replay` takes files.")] = None,
    clusters: Annotated[int | None, Parameter(help="Without labels: so many groups of users, 2 to 32.")] = None,
    history: Annotated[
        tuple[Path, ...],
        Parameter(consume_multiple=True, negative="", help="The events as files, as `replay` takes them."),
    ] = (),
    data: Annotated[Literal["completejourney"] | None, Parameter(help="The events of the demo's panel.")] = None,
    topic: Annotated[str | None, Parameter(help="Raw topic that the files' rows are of.")] = None,
    query: Annotated[str | None, Parameter(help="The scenario's question, where it is not configured.")] = None,
    checkpoint: Annotated[Path | None, Parameter(help="Instead of model.checkpoint.")] = None,
    out: Annotated[Path | None, Parameter(help="The prompt's file; SCENARIO.safetensors without --put.")] = None,
    put: Annotated[bool, Parameter(negative="", help="Register it with the running system.")] = False,
    as_: Annotated[str | None, Parameter(name="--as", help="With --put: the name to register it under.")] = None,
    wait: Annotated[bool, Parameter(negative="", help="With --put: until every user has an embedding.")] = False,
    url: Annotated[str | None, Parameter(help="With --put: service; default: the one on the data directory.")] = None,
    tokens: Annotated[int, Parameter(help="Of the prompt, 1 to 256.")] = 6,
    steps: Annotated[int, Parameter(help="How many.")] = 500,
    rows: Annotated[int, Parameter(help="At most so many labelled moments are read.")] = 10_000,
    seed: Annotated[int, Parameter(help="Of the beginning and of the order.")] = 0,
    threads: Annotated[int, Parameter(help="CPU threads; 0 = half the cores.")] = 0,
    common: Common | None = None,
) -> None:
    """Tune a soft prompt for a scenario by labels, or by groups of users; the model itself stays as it is.

    The history is that of the files, of --data, or of the running system (its `tokens` topic). Scores are of users who
    were held out.
    """
    from deploy import output
    from deploy.learning.history_source import HistorySource
    from deploy.operate.service_client import Service
    from encoder.learning.tuning.settings import TuneSettings
    from store.base.errors import ConfigError

    common = common or Common()
    source = HistorySource(history, data, topic)
    settings = _settings(common, source)
    if (labels is None) is (clusters is None):
        raise ConfigError("one of --labels FILE and --clusters K says what to tell apart", action="give one of them")
    if not 2 <= (clusters or 2) <= _most_clusters():
        raise ConfigError(f"--clusters {clusters}", action=f"2 to {_most_clusters()}")
    if (as_ is not None or wait) and not put:
        raise ConfigError("--as and --wait go with --put", action="add --put, or leave them out")
    told = _told(tokens=tokens, steps=steps, rows=rows, seed=seed, default=TuneSettings())
    name = as_ or (f"{scenario}_tuned" if put and scenario in settings.scenarios else scenario)
    # what would fail after minutes fails at once
    _check_names(settings, scenario, name, put=put)
    if put and checkpoint not in (None, settings.model.checkpoint):
        raise ConfigError(
            "the running system has another checkpoint", action="tune on its own: leave --checkpoint out, or --put"
        )
    service = Service.find(settings, url, admin=True) if put else None
    asked = query or _query(settings, scenario, service)
    begun = time.monotonic()
    with output.progress("tune", quiet=common.json, lines_seconds=_PLAIN_LINE_SECONDS) as bar:
        run = _run(settings, source, labels, clusters, scenario, asked, told, checkpoint, threads, _timed(bar.update))
    seconds = time.monotonic() - begun
    result = _write(run, settings, name, out, put=put) | {"seconds": round(seconds, 1)}
    if not common.json:
        show_run(run, seconds)
    if service is not None:
        result["scenario"] = _put(service, name, asked, result["prompt"], wait=wait, quiet=common.json)
    if common.json:
        output.write_json(result)
        return
    output.note(f"{result['file']}: {result['bytes']:,} bytes")
    if put:
        output.note_result(f"{name} is registered with the prompt {result['prompt']}")
    else:
        output.note("To use it: --put; or lay it into model.prompts_dir, and scenarios put --prompt NAME.")


def _check_names(settings: Settings, scenario: str, name: str, *, put: bool) -> None:
    """Raises ConfigError: they cannot be names, or `name` cannot be registered."""
    import re

    from store.base.errors import ConfigError
    from store.base.settings import NAME

    for each in (scenario, name):
        if re.fullmatch(NAME, each) is None:
            raise ConfigError(
                f"{each!r:.80} is no name of a scenario",
                action="lower-case letters, digits and _, at most 63, letter first",
            )
    if put and name in settings.scenarios:
        raise ConfigError(
            f"{name!r} is a scenario of the configuration, which no command changes",
            action=f"--as another name; or without --put, and scenarios.{name}.prompt in the configuration",
        )


def _most_clusters() -> int:
    from encoder.learning.tuning.labels import MAX_CLASSES

    return MAX_CLASSES


def _told(*, tokens: int, steps: int, rows: int, seed: int, default: TuneSettings) -> TuneSettings:
    from encoder.model.soft_prompt import MAX_PROMPT_TOKENS
    from store.base.errors import ConfigError

    for name, value, most in (("tokens", tokens, MAX_PROMPT_TOKENS), ("steps", steps, 10**6), ("rows", rows, 10**9)):
        if not 1 <= value <= most:
            raise ConfigError(f"--{name} {value}", action=f"1 to {most:,}")
    return replace(default, tokens=tokens, steps=steps, rows=rows, seed=seed)


def _settings(common: Common, source: HistorySource) -> Settings:
    source.check()
    if source.data is None or common.config is not None:
        return common.settings()
    from deploy.learning import complete_journey
    from store.base import logs

    logs.configure("cli", level="ERROR")
    return complete_journey.load_settings()


def _query(settings: Settings, scenario: str, service: Any) -> str:
    """Of the configuration, or as the running service has it."""
    from store.base.errors import ConfigError

    if scenario in settings.scenarios:
        return settings.scenarios[scenario].query
    known = service.scenarios() if service is not None else {}
    if scenario in known:
        return str(known[scenario]["query"])
    raise ConfigError(
        f"nobody knows what {scenario!r} asks",
        action=f'--query "…"; configured are {", ".join(settings.scenarios)}',
    )


def _timed(show: Show) -> Show:
    """With the time that is left, as far as the share done tells it."""
    from deploy import output

    begun = time.monotonic()

    def timed(done: float, text: str) -> None:
        passed = time.monotonic() - begun
        left = f", about {output.duration(passed / done - passed)} left" if done > 0.05 and passed > 5 else ""
        show(done, text + left)

    return timed


def _run(
    settings: Settings,
    source: HistorySource,
    labels: Path | None,
    clusters: int | None,
    name: str,
    query: str,
    told: TuneSettings,
    checkpoint: Path | None,
    threads: int,
    show: Show,
) -> Run:
    from deploy import output
    from deploy.learning.history_source import load_windows
    from encoder.forward.user_encoder import UserEncoder
    from encoder.learning.baselines.probe import sklearn
    from encoder.learning.tuning.labels import match
    from encoder.learning.tuning.run import Scenario, with_clusters, with_labels

    if labels is not None:
        sklearn()
        given = _labels(settings, labels, source.topic)
    windows, without_text = load_windows(settings, source, lambda done, text: show(_READING * done, text))
    if without_text:
        output.note(
            f"{without_text:,} of {windows.history.rows:,} events have left their windows: their texts are gone, so "
            "users of long ago are seen by numbers and times alone. --history FILE has them"
        )
    model: ModelSettings = settings.model.model_copy(
        update={
            "kv_pool_bytes": 0,
            "threads": threads,
            "checkpoint": checkpoint or settings.model.checkpoint,
        }
    )
    matched = match(given, windows.history) if labels is not None else None
    encoder = UserEncoder(model, settings.modalities, {}, windows.history.dim)
    if not encoder.trained:
        output.note("the model is untrained (no model.checkpoint): a prompt can only make the best of what it has")
    scenario = Scenario(name, query, encoder, model)

    def rest(done: float, text: str) -> None:
        show(_READING + (1 - _READING) * done, text)

    if matched is None:
        return with_clusters(scenario, windows, clusters or 2, told, rest)
    return with_labels(scenario, windows, matched, told, rest)


def _labels(settings: Settings, file: Path, topic: str | None) -> list[Any]:
    from deploy.learning.labels import mapping_of, read_labels
    from store.base.errors import NotFoundError

    if not file.is_file():
        raise NotFoundError(f"{file} is not there", action="check its name")
    return list(read_labels(file, mapping_of(settings, topic), settings.model.time_zone))


def _write(run: Run, settings: Settings, name: str, out: Path | None, *, put: bool) -> dict[str, Any]:
    """The prompt's file, or files. Raises OSError."""
    from encoder.model.soft_prompt import SUFFIX, write

    prompt = f"{name[:_NAME_CHARS]}_{run.prompt.id[:8]}"
    paths = [out] if out is not None else []
    if put:
        # named by its content: another prompt is another name, which is what the workers are told of
        folder = settings.with_prompts(settings.model).prompts_dir or Path()
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(folder / f"{prompt}{SUFFIX}")
    for path in paths or [Path(f"{name}{SUFFIX}")]:
        write(path, run.prompt)
    found = paths[-1] if paths else Path(f"{name}{SUFFIX}")
    about = run.prompt.about
    return {
        "file": str(found),
        "bytes": found.stat().st_size,
        "prompt": prompt,
        "query": about.query,
        "weights": about.weights,
        "classes": about.classes,
        "used": about.config["rows"],
        "left_out": run.labelled.left_out,
        "step": run.tuned.step,
        "scores": about.scores,
        "helps": None if run.scores is None else run.scores.helps,
    }


def _put(service: Any, name: str, query: str, prompt: str, *, wait: bool, quiet: bool) -> dict[str, Any]:
    from deploy.commands.scenarios import wait_for_back_fill
    from deploy.operate.service_client import quote

    path = f"/v1/scenarios/{quote(name)}"
    created, found = service.put(path, {"query": query, "prompt": prompt})
    if wait:
        found = wait_for_back_fill(service, path, quiet=quiet)
    return {"created": created, **found}


def show_run(run: Run, seconds: float) -> None:
    """What was used, and what the prompt is worth."""
    from deploy import output
    from encoder.learning.tasks.rows import Split
    from encoder.learning.tuning.scores import WITH, WITHOUT

    counts = run.labelled.counts()
    rows = [[name, *(own[part] for part in Split), sum(own.values())] for name, own in counts.items()]
    columns = ("class", "learned from", "choosing", "held out", "together")
    output.write_table(columns, rows, title="labelled moments, by user", right=columns[1:])
    for reason, n in run.labelled.left_out.items():
        output.note(f"left out: {n:,} {reason}")
    if run.scores is None:
        told = [[name, f"{of['margin']:.4f}", f"{of['kept']:.1%}"] for name, of in run.separation.items()]
        output.write_table(
            ("vectors", "margin", "same group"), told, title="held-out users: cosine to the own group less the next",
            right=("margin", "same group"),
        )  # fmt: skip
    else:
        told = [
            [vectors, reader, f"{m.mean_auc:.4f}", f"{m.mean_ks:.4f}"]
            for (vectors, reader), m in run.scores.methods.items()
        ]
        output.write_table(("vectors", "read by", "AUC", "KS"), told, title="held-out users", right=("AUC", "KS"))
        for reader, lift in run.scores.lift.items():
            output.note(
                f"{WITH} - {WITHOUT}, {reader}: {run.scores.gain(reader):+.4f} "
                f"({lift.low:+.4f} … {lift.high:+.4f} in 95 % of bootstraps)"
            )
        if not run.scores.helps:
            output.note("warning: the prompt does not help on held-out users; the query alone is as good or better")
    output.note(f"step {run.tuned.step:,} was taken, by the users who choose; {output.duration(seconds)}")
