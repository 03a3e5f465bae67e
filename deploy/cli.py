"""The command `anchorstream`.

A command is imported when it runs, so `--help` needs neither torch nor Kafka. Exit code: 0 on success only; 2 for a
wrong option or setting, 130 after Ctrl-C, otherwise 1.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cyclopts import App, CycloptsError, Group

from store.base import disk
from store.base.errors import AnchorstreamError

INTERRUPTED = 130
USAGE = 2

_RUN = Group("Run", sort_key=1)
_ASK = Group("Ask", sort_key=2)
_OPERATE = Group("Operate", sort_key=3)

COMMANDS: tuple[tuple[str, str, Group, str], ...] = (
    ("demo", "deploy.commands.demo:demo", _RUN, "Real households end to end on this machine."),
    ("up", "deploy.commands.up:up", _RUN, "Start the broker (if it is ours) and all roles; Ctrl-C stops them."),
    ("run", "deploy.commands.run_role:run_role", _RUN, "Run one role in this process."),
    ("init", "deploy.commands.init:init", _RUN, "Propose a configuration for your events."),
    ("replay", "deploy.commands.replay:replay", _RUN, "Publish files (JSON Lines, CSV, Parquet) to the raw topics."),
    ("embedding", "deploy.commands.embedding:embedding", _ASK, "Show a user's embedding record."),
    ("embed", "deploy.commands.embed:embed", _ASK, "A user's embedding for a query that nobody registered."),
    ("neighbors", "deploy.commands.neighbors:neighbors", _ASK, "Show the users nearest to one."),
    ("export", "deploy.commands.export:export", _ASK, "Write all embeddings of a scenario to a file."),
    ("scenarios", "deploy.commands.scenarios:app", _ASK, "Scenarios and how many users each has."),
    ("lag", "deploy.commands.lag:lag", _OPERATE, "How far each role is behind, in messages and seconds."),
    ("account", "deploy.commands.account:account", _OPERATE, "What became of everything that was published."),
    ("offsets", "deploy.commands.offsets:app", _OPERATE, "Where each group goes on, what is lost to it, and a reset."),
    (
        "topics",
        "deploy.commands.topics:app",
        _OPERATE,
        "Our topics on the broker: what is wrong with them, and mending.",
    ),
    ("doctor", "deploy.commands.doctor:doctor", _OPERATE, "Check configuration, broker, state, device and weights."),
    ("verify", "deploy.commands.verify:verify", _OPERATE, "Recompute embeddings from stored tokens and compare."),
    ("dead-letters", "deploy.commands.dead_letters:app", _OPERATE, "Refused events: list, show, replay."),
    ("buffer", "deploy.commands.buffer:app", _OPERATE, "What the token buffer holds of a user."),
    ("pretrain", "deploy.commands.pretrain:pretrain", _OPERATE, "Train a model on a history."),
    ("tune", "deploy.commands.tune:tune", _OPERATE, "Tune a soft prompt for a scenario, by labels or groups of users."),
    ("evaluate", "deploy.commands.evaluate:evaluate", _OPERATE, "How well what is known of users tells what they do."),
    ("bench", "deploy.commands.bench:bench", _OPERATE, "Measure; prints a table with ratios."),
)
"""Name, where it lives, group and one line of help."""


def build() -> App:
    """The command tree; nothing of a command is imported yet."""
    app = App(
        name="anchorstream",
        help="Fresh, query-conditioned user embeddings per event: Kafka in, Kafka, FAISS and HTTP out.",
        version=_version,
        help_format="plaintext",
    )
    for name, path, group, text in COMMANDS:
        app.command(path, name=name, help=text, group=group)
    return app


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code. An unexpected exception leaves with its traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        result: Any = build()(words, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        return _usage(error, as_json=_wants_json(words))
    except AnchorstreamError as error:
        from deploy.output import write_error

        write_error(error, as_json=_wants_json(words))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # whoever read us has gone (`… | head`): say nothing, and keep the interpreter's own flush quiet
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as exc:
        from deploy.output import write_error

        if (refused := disk.refused(exc)) is None:
            raise
        write_error(refused, as_json=_wants_json(words))
        return refused.exit_code
    return result if isinstance(result, int) else 0


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run())


def _usage(error: CycloptsError, *, as_json: bool) -> int:
    from deploy.output import write_error

    command = " ".join(("anchorstream", *(error.command_chain or ())))
    detail = " ".join(str(error).split())
    write_error(AnchorstreamError(detail, action=f"see {command} --help", code="usage"), as_json=as_json)
    return USAGE


def _wants_json(words: Sequence[str]) -> bool:
    """Whether errors go out as JSON: `--json` as a flag (some commands take a file there); and where logs are."""
    if words[:1] == ["run"]:
        return not sys.stderr.isatty()
    return "--json" in words and words[0] not in ("demo", "bench", "evaluate", "pretrain")


def _version() -> str:
    try:
        return version("anchorstream")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0+unknown"


if __name__ == "__main__":
    main()
