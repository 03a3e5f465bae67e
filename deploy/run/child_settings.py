"""How the settings in force reach a child process: a resolved file, and secrets in its environment only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from deploy.settings.config import Settings
from deploy.settings.toml_text import dump
from deploy.settings.variables import ENV_PREFIX
from store.base.files import write_atomic

_SECRET_WORDS = ("password", "secret", "token", "jaas", "key.pem", "private")


def write_child_settings(settings: Settings, path: Path) -> dict[str, str | None]:
    """Write `path`, readable by this user alone and free of secrets.

    Returns:
        Changes to the environment with which `deploy.settings.config.load(path)` gives exactly these settings: the
        secrets, and None for every variable that would override the file (it is resolved already).
    """
    secrets: dict[str, str] = {}
    plain = _without_secrets(settings.model_dump(exclude_none=True), (), secrets)
    text = dump(plain, comment="Settings in force, written by `anchorstream up`. Edits have no effect.")
    write_atomic(path, text, mode=0o600)
    sections = {f"{ENV_PREFIX}{name}".upper() for name in Settings.model_fields}
    environment: dict[str, str | None] = {
        name: None for name in os.environ if name.upper().partition("__")[0] in sections
    }
    environment[f"{ENV_PREFIX}SECRETS_DIR"] = None
    return environment | secrets


def _without_secrets(table: Mapping[str, Any], path: tuple[str, ...], secrets: dict[str, str]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    hidden: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            plain[key] = _without_secrets(value, (*path, key), secrets)
        elif isinstance(value, SecretStr):
            secrets[_variable(*path, key)] = value.get_secret_value()
        elif any(word in key.lower() for word in _SECRET_WORDS) and path[-1:] == ("properties",):
            hidden[key] = value
        else:
            plain[key] = value
    if hidden:
        # keys with dots cannot be variable names: the table as JSON, which is merged with the file's
        secrets[_variable(*path)] = json.dumps(hidden)
    return plain


def _variable(*path: str) -> str:
    return ENV_PREFIX + "__".join(part.upper() for part in path)
