"""Settings as plain values, with the secrets apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

_SECRET_WORDS = ("password", "secret", "token", "jaas", "key.pem", "private")

Secrets = dict[tuple[str, ...], str | dict[str, Any]]
"""Path of a key → its secret; path of a table of free keys (`kafka.properties`) → those of it that are secret."""


def without_secrets(table: Mapping[str, Any], secrets: Secrets, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """`table` (a dump of Settings) without its secrets, which go to `secrets`."""
    plain: dict[str, Any] = {}
    hidden: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            plain[key] = without_secrets(value, secrets, (*path, key))
        elif isinstance(value, SecretStr):
            secrets[*path, key] = value.get_secret_value()
        elif any(word in key.lower() for word in _SECRET_WORDS) and path[-1:] == ("properties",):
            hidden[key] = value
        else:
            plain[key] = value
    if hidden:
        secrets[path] = hidden
    return plain
