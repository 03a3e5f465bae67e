"""How the settings in force reach a child process: a resolved file, and secrets in its environment only."""

from __future__ import annotations

import json
import os
from pathlib import Path

from deploy.settings.config import Settings
from deploy.settings.plain import Secrets, without_secrets
from deploy.settings.toml_text import dump
from deploy.settings.variables import ENV_PREFIX
from store.base.files import write_atomic


def write_child_settings(settings: Settings, path: Path) -> dict[str, str | None]:
    """Write `path`, readable by this user alone and free of secrets.

    Returns:
        Changes to the environment with which `deploy.settings.config.load(path)` gives exactly these settings: the
        secrets, and None for every variable that would override the file (it is resolved already).
    """
    secrets: Secrets = {}
    plain = without_secrets(settings.model_dump(exclude_none=True), secrets)
    text = dump(plain, comment="Settings in force, written by `anchorstream up`. Edits have no effect.")
    write_atomic(path, text, mode=0o600)
    sections = {f"{ENV_PREFIX}{name}".upper() for name in Settings.model_fields}
    environment: dict[str, str | None] = {
        name: None for name in os.environ if name.upper().partition("__")[0] in sections
    }
    environment[f"{ENV_PREFIX}SECRETS_DIR"] = None
    # keys with dots cannot be variable names: such a table travels as JSON, which is merged with the file's
    return environment | {
        _variable(*keys): value if isinstance(value, str) else json.dumps(value) for keys, value in secrets.items()
    }


def _variable(*path: str) -> str:
    return ENV_PREFIX + "__".join(part.upper() for part in path)
