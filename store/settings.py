"""Settings of what remembers and answers: modalities (windows), scenarios, state, HTTP service."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

NAME = r"^[a-z][a-z0-9_]{0,62}$"
"""Modality and scenario names: they become topic names, metric labels and key parts."""

MAX_EVENTS_LIMIT = 1000
"""Upper bound of `max_events`: a float32 sum of this many fixed-point vectors is still exact (see store/summary.py)."""

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Section(BaseModel):
    """Base of all settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModalityKind(StrEnum):
    """`events`: a rolling sequence. `tabular`: the latest value per field by event time."""

    EVENTS = "events"
    TABULAR = "tabular"


class ModalitySettings(Section):
    """One kind of behaviour and its rolling window."""

    topic: str = Field(min_length=1, max_length=249, pattern=r"^[a-zA-Z0-9._-]+$")
    kind: ModalityKind = ModalityKind.EVENTS
    text: str = ""
    """Template of an event's text; `{field}` is replaced, a missing field renders empty. Empty = all text fields."""
    numbers: tuple[str, ...] = Field(default=(), max_length=16)
    """Fields kept as numbers beside the text vector."""
    window_days: Annotated[float, Field(gt=0, le=3660)] = 90.0
    max_events: Annotated[int, Field(ge=1, le=MAX_EVENTS_LIMIT)] = 250

    @field_validator("text")
    @classmethod
    def _placeholders(cls, value: str) -> str:
        rest = _PLACEHOLDER.sub("", value)
        if "{" in rest or "}" in rest:
            raise ValueError("only plain {field} placeholders are allowed, without formats or nesting")
        return value

    @property
    def window_ms(self) -> int:
        """Length of the window, milliseconds."""
        return int(self.window_days * 86_400_000)


class ScenarioSettings(Section):
    """One use of the embeddings, described by its natural-language query."""

    query: str = Field(min_length=1, max_length=2000)
    prompt: str | None = None
    """Name of a tuned soft prompt, if any."""


class StoreSettings(Section):
    """State on disk."""

    data_dir: Path = Path("anchorstream-data")
    snapshot_interval_seconds: Annotated[float, Field(gt=0)] = 30.0
    block_cache_bytes: Annotated[int, Field(ge=8 << 20)] = 128 << 20
    """Shared by all partitions of one process."""
    write_buffer_bytes: Annotated[int, Field(ge=4 << 20)] = 64 << 20
    """Shared by all partitions of one process."""


class ServeSettings(Section):
    """HTTP service."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """0 = any free port; the chosen one is printed and written to <data_dir>/run/serve.json."""
    read_token: SecretStr | None = None
    admin_token: SecretStr | None = None
    max_k: Annotated[int, Field(ge=1, le=10_000)] = 1000
