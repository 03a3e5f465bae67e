"""Options that every command has, and what they open."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from deploy.settings.config import Settings

NAME = "anchorstream"
DEFAULT_CONFIG = Path("anchorstream.toml")

ConfigOption = Annotated[
    Path | None,
    Parameter(
        name=["--config", "-c"],
        env_var="ANCHORSTREAM_CONFIG",
        help="TOML file; default ./anchorstream.toml if there is one, else the built-in defaults.",
    ),
]


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """Options of every command."""

    config: ConfigOption = None
    json: Annotated[bool, Parameter(name="--json", negative="", help="Machine-readable output.")] = False

    def settings(self, overrides: Mapping[str, Any] | None = None) -> Settings:
        """Read the configuration. Raises ConfigError."""
        return load_settings(self.config, overrides)


def program() -> str:
    """How this command is called here: by its name where the PATH has it, else by where it is."""
    called = Path(sys.argv[0])
    if shutil.which(NAME) is not None or called.name != NAME or not called.is_file():
        return NAME
    there = called.absolute()
    here = Path.cwd()
    if here == Path("/") or not there.is_relative_to(here):
        return str(there)
    # a shell looks up what has no slash on the PATH
    return f"./{NAME}" if there.parent == here else str(there.relative_to(here))


def config_path(config: Path | None) -> Path | None:
    """The file in force: the one named, else ./anchorstream.toml if it exists."""
    if config is None and DEFAULT_CONFIG.is_file():
        return DEFAULT_CONFIG
    return config


def load_settings(
    config: Path | None, overrides: Mapping[str, Any] | None = None, *, log_level: str = "ERROR"
) -> Settings:
    """Read the configuration and set up this process's logs: a command says itself what people should know.

    Raises ConfigError.
    """
    from deploy.settings.config import load
    from store.base import logs

    logs.configure("cli", level=os.environ.get("ANCHORSTREAM_LOG_LEVEL", log_level))
    return load(config_path(config), overrides=overrides)
