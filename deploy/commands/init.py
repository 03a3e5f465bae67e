"""`anchorstream init FILE…`."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from deploy.commands.common import DEFAULT_CONFIG, Common, program

if TYPE_CHECKING:
    from deploy.init.files import Look, Looked
    from deploy.init.trial import TrialResult


def init(
    *files: str,
    topic: Annotated[
        str | None, Parameter(help="Look at this raw topic of the broker; beside files: what theirs is to be called.")
    ] = None,
    bootstrap: Annotated[str | None, Parameter(help="Its broker, host:port,…; default: the configuration's.")] = None,
    target: Annotated[
        Path,
        Parameter(name="--output", allow_leading_hyphen=True, help="Where the proposal goes; - = standard output."),
    ] = (DEFAULT_CONFIG),
    force: Annotated[bool, Parameter(negative="", help="Overwrite it.")] = False,
    rows: Annotated[int, Parameter(validator=Number(gte=1, lte=1_000_000), help="Look at so many of each table.")] = (
        20_000
    ),
    form: Annotated[
        Literal["jsonl", "csv", "parquet"] | None,
        Parameter(name="--format", help="What is in the files, whatever their names say."),
    ] = None,
    delimiter: Annotated[
        str | None, Parameter(help='Of CSV; "tab" for tabulators. Default: what the first line tells.')
    ] = None,
    encoding: Annotated[str, Parameter(help="Of CSV.")] = "utf-8",
    common: Common | None = None,
) -> int:
    """Propose a configuration for your events: from files (as `replay` takes them), or a raw topic that is there.

    Says why it proposes what, what it is unsure of, and how many rows would be accepted. Exit code 1 where none would.
    """
    from deploy import output
    from deploy.init.files import Look, look_at_files
    from deploy.init.proposal import propose
    from deploy.init.trial import try_out
    from deploy.run.interrupt import stop_on_signals
    from deploy.settings.config import load
    from store.base.errors import ConfigError
    from store.base.files import write_atomic
    from store.base.stop import Stopped, obey
    from stream.replay.open_files import FileOptions, Format

    common = common or Common()
    to_stdout = str(target) == "-"
    if not files and topic is None:
        raise ConfigError("no file and no topic was given", action="anchorstream init events.csv …, or --topic NAME")
    if not to_stdout and target.exists() and not force:
        raise ConfigError(f"{target} exists already", action="--force overwrites it; --output names another file")
    wall_ms = int(time.time() * 1000)
    given: dict[str, dict[str, Any]] = {"kafka": {"bootstrap_servers": bootstrap} if bootstrap else {}}
    notes: list[str] = []
    with stop_on_signals() as stop, output.progress("init", quiet=common.json) as bar:

        def tick() -> None:
            obey(stop)
            bar.update(-1, "reading")

        look = Look(rows, wall_ms, tick)
        try:
            if files:
                options = FileOptions(Format(form) if form else None, delimiter, encoding)
                found = look_at_files(files, options, look, topic=topic)
            else:
                found = [_live(common, str(topic), bootstrap, look, given, notes)]
        except Stopped:
            return 130
    tables = _recognised(found, notes)
    following = _following(tables, target)
    proposal = propose(
        [(looked.guess, looked.source) for looked in tables if looked.guess is not None],
        wall_ms,
        command=" ".join(["anchorstream init", *map(shlex.quote, files or ["--topic", str(topic)])]),
        given=given,
        also_unsure=notes,
        following=following,
    )
    trial = try_out(load(None, overrides=proposal.config), tables, wall_ms)
    if to_stdout and not common.json:
        output.note_result(proposal.text.rstrip("\n"))
    elif not to_stdout:
        write_atomic(target, proposal.text.encode())
    if common.json:
        output.write_json(
            {
                "path": None if to_stdout else str(target),
                "config": proposal.config,
                "toml": proposal.text,
                "unsure": proposal.unsure,
                "trial": trial.to_dict(),
                "next": following,
            }
        )
    else:
        _report(trial, proposal.unsure, following, None if to_stdout else target)
    if trial.rows and not trial.accepted:
        output.note("nothing would be accepted: the proposal does not fit these rows as it is")
    return 0 if trial.accepted else 1


def _live(
    common: Common, topic: str, bootstrap: str | None, look: Look, given: dict[str, dict[str, Any]], notes: list[str]
) -> Looked:
    from deploy.brokers import connect
    from deploy.init.live import look_at_topic
    from store.base.settings import StoreSettings
    from stream.settings import KafkaSettings

    settings = common.settings({"kafka": {"bootstrap_servers": bootstrap}} if bootstrap else None)
    kafka, usual = settings.kafka, KafkaSettings()
    for name in ("bootstrap_servers", "topic_prefix", "partitions", "replication_factor"):
        if (value := getattr(kafka, name)) != getattr(usual, name):
            given["kafka"][name] = value
    if (folder := settings.store.data_dir) != StoreSettings().data_dir:
        given["store"] = {"data_dir": str(folder)}
    if kafka.properties:
        notes.append(f"[kafka.properties] are left out, which may hold secrets: {', '.join(kafka.properties)}")
    return look_at_topic(connect(settings, timeout_s=5.0), topic, look)


def _recognised(found: Sequence[Looked], notes: list[str]) -> list[Looked]:
    """Those of which something can be proposed. Raises AnchorstreamError `not_recognised` if there are none."""
    from store.base.errors import AnchorstreamError

    why = [f"{', '.join(looked.paths) or looked.source.what}: {looked.why}" for looked in found if looked.guess is None]
    tables = [looked for looked in found if looked.guess is not None]
    if not tables:
        raise AnchorstreamError(
            "; ".join(why),
            action="every event needs a user and a time: name them by hand (docs/producers.md), or add them",
            code="not_recognised",
        )
    notes += [f"left out: {text}" for text in why]
    notes += [text for looked in tables for text in looked.unsure]
    return tables


def _following(tables: Sequence[Looked], target: Path) -> list[str]:
    """Commands that come next."""
    from deploy.init.trial import sorts
    from stream.replay.open_files import FileOptions

    config = [] if target == DEFAULT_CONFIG else ["--config", "FILE" if str(target) == "-" else str(target)]
    commands = [["doctor", *config], ["up", *config]]
    for looked in tables:
        if looked.paths and looked.guess is not None:
            options = looked.options
            words = [*config, "--topic", looked.guess.topic]
            words += ["--sort"] if sorts(looked) else []
            words += ["--format", options.format.value] if options.format else []
            words += ["--delimiter", options.delimiter] if options.delimiter else []
            words += ["--encoding", options.encoding] if options.encoding != FileOptions().encoding else []
            commands.append(["replay", *words, *looked.paths])
    user = next((user for looked in tables if looked.guess for user in looked.guess.by_user), "USER")
    commands.append(["neighbors", user, *config])
    return [shlex.join([program(), *command]) for command in commands]


def _report(trial: TrialResult, unsure: Sequence[str], following: Sequence[str], target: Path | None) -> None:
    """For people: on standard output, unless the proposal is there."""
    from deploy import output

    say = output.note if target is None else output.note_result
    if target is not None:
        say(f"proposed: {target}")
    say(f"of {trial.rows:,} rows judged by it, {trial.accepted.total():,} would be accepted")
    for modality, count in trial.accepted.most_common():
        say(f"  accepted  {count:>9,}  {modality}")
    for reason, count in trial.skipped.most_common():
        say(f"  skipped   {count:>9,}  {reason}")
    for code, refused in sorted(trial.refused.items(), key=lambda item: -item[1].rows):
        say(f"  refused   {refused.rows:>9,}  {code}: {refused.place}: {refused.detail}")
    if unsure:
        say("unsure:")
        for text in unsure:
            say(f"  - {text}")
    say("next:")
    for command in following:
        say(f"  {command}")
