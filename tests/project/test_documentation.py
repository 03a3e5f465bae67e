"""Documentation is a contract: every setting and every command is in it, as the code has it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deploy.cli import COMMANDS
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


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid_and_mentioned(path: Path) -> None:
    load(path)
    assert path.name in CONFIGURATION


def test_a_document_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="begin"):
        updated("nothing here")
