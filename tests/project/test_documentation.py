"""Documentation is a contract: every setting and every command is in it, as the code has it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deploy.cli import COMMANDS, build
from deploy.settings.config import Settings, load
from deploy.settings.reference import sections, tables, updated

ROOT = Path(__file__).parents[2]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
CLI = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
EXAMPLES = sorted((ROOT / "deploy" / "examples").glob("*.toml"))


def test_tables_of_settings_are_current() -> None:
    """If this fails: python -m deploy.settings.reference docs/configuration.md"""
    assert updated(CONFIGURATION) == CONFIGURATION


def test_every_section_of_the_file_has_a_table() -> None:
    assert {name.partition(".")[0] for name, _ in sections()} == set(Settings.model_fields)
    assert all(f"### `[{name}]`" in tables() for name, _ in sections())


def test_every_command_has_a_heading() -> None:
    documented = re.findall(r"^## `anchorstream ([a-z-]+)", CLI, re.MULTILINE)
    assert sorted(documented) == sorted(name for name, *_ in COMMANDS)


def test_every_command_that_a_text_names_is_there() -> None:
    """B15: texts sent people to commands that did not exist."""
    folders = ("deploy", "encoder", "store", "stream", "docs")
    texts = [
        p
        for folder in folders
        for kind in ("py", "md", "toml", "yaml", "yml")
        for p in (ROOT / folder).rglob(f"*.{kind}")
    ]
    subcommands = {
        name: {sub for sub in build()[name] if not sub.startswith("-")}
        for name, path, *_ in COMMANDS
        if path.endswith(":app")
    }
    named = {
        (path.name, *found)
        for path in [*texts, ROOT / "README.md"]
        if path.name != "log.md"  # what has been is not what is
        # alerts have no prose in which it is not a command
        for before in ("" if path.suffix == ".yml" else r"(?:`|^|\$ )",)
        for found in re.findall(rf"{before}\banchorstream ([a-z-]+)(?: ([a-z-]+))?", path.read_text(), re.MULTILINE)
    }
    assert len(named) > 30
    known = {name for name, *_ in COMMANDS}
    wrong = {
        (where, command, sub)
        for where, command, sub in named
        if command not in known or (sub and command in subcommands and sub not in subcommands[command])
    }
    assert wrong == set()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid_and_mentioned(path: Path) -> None:
    load(path)
    assert path.name in CONFIGURATION


def test_a_document_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="begin"):
        updated("nothing here")
