"""Metadata of a committed offset: `key=value,…`, no `=` or `,` in either. Pure."""

from __future__ import annotations

from collections.abc import Mapping


def encode(fields: Mapping[str, str | int | None]) -> str:
    """Fields that are None are left out."""
    return ",".join(f"{key}={value}" for key, value in fields.items() if value is not None)


def decode(metadata: str | None) -> dict[str, str]:
    """Inverse of `encode`, values as text; what a hand wrote otherwise is left out."""
    pairs = (part.partition("=") for part in (metadata or "").split(","))
    return {key: value for key, sign, value in pairs if key and sign}
