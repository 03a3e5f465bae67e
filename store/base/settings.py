"""Settings of what remembers and answers: modalities (windows), scenarios, state, HTTP service."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from store.base.query_text import MAX_CHARS
from store.base.template import Template

NAME = r"^[a-z][a-z0-9_]{0,62}$"
"""Modality and scenario names: they become topic names, metric labels and key parts."""

MAX_SCENARIOS = 256
"""In all, configured and registered; without candidates'."""

MEMORY_DAYS = 730
"""Default of `memory_days`."""

MAX_EVENTS_LIMIT = 1000
"""Upper bound of `max_events`: a float32 sum of so many fixed-point vectors is exact (store/window/summary.py)."""

_TOKEN = re.compile(r"[\x21-\x7e]+")


class Section(BaseModel):
    """Base of all settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


ERASURE = "(erasure)"
"""In place of a modality's name, of an event that erases its user in all of them, up to its time."""


class ModalityKind(StrEnum):
    """`events`: a rolling sequence. `tabular`: the latest value per field by event time."""

    EVENTS = "events"
    TABULAR = "tabular"


class ModalitySettings(Section):
    """One kind of behaviour and its rolling window."""

    topic: str = Field(min_length=1, max_length=249, pattern=r"^[a-zA-Z0-9._-]+$")
    """Raw topic it arrives on. Modalities may share one; their events then name theirs in `modality`.
    `[mapping."TOPIC"]` is for events of another shape."""
    kind: ModalityKind = ModalityKind.EVENTS
    """`events`: a rolling sequence. `tabular`: the latest value per field, by event time."""
    text: str = ""
    """Template of an event's text; `{field}`, or `{outer.field}` inside others, is replaced, a missing field renders
    empty. Empty = all text fields."""
    numbers: tuple[str, ...] = Field(default=(), max_length=16)
    """Fields, or paths like `order.total`, kept as numbers beside the text vector."""
    require_content: bool = True
    """Refuse an event with none of the fields that `text` and `numbers` name; tabular: with none (`no_content`)."""
    window_days: Annotated[float, Field(gt=0, le=3660)] = 90.0
    """Older events leave the window (by the newest event time seen)."""
    memory_days: Annotated[float, Field(ge=0, le=3660)] | None = None
    """Events that have left the window, by age or by number, are remembered so long without their texts: time, numbers
    and sums per 28 days. 0 = not at all; else no less than `window_days`. None = 730, or `window_days` where that is
    more. Tabular: nothing is."""
    max_events: Annotated[int, Field(ge=1, le=MAX_EVENTS_LIMIT)] = 250
    """Newest events of a user kept; tabular: fields."""

    @field_validator("text")
    @classmethod
    def _placeholders(cls, value: str) -> str:
        Template(value)
        return value

    @model_validator(mode="after")
    def _memory_holds_the_window(self) -> Self:
        if self.memory_days and self.memory_days < self.window_days:
            raise ValueError(
                f"memory_days = {self.memory_days:g} is shorter than window_days = {self.window_days:g}; "
                "0 is for no memory"
            )
        if self.memory_days and self.kind is ModalityKind.TABULAR:
            raise ValueError("a tabular modality has the latest values only: it has no memory_days")
        return self

    @property
    def window_ms(self) -> int:
        """Length of the window, milliseconds."""
        return int(self.window_days * 86_400_000)

    @property
    def memory_ms(self) -> int:
        """How long events are remembered, milliseconds: as long as the window at least, or 0 = not at all."""
        if self.kind is ModalityKind.TABULAR or self.memory_days == 0:
            return 0
        return max(self.window_ms, int((self.memory_days or MEMORY_DAYS) * 86_400_000))

    @property
    def kept_ms(self) -> int:
        """Age from which on an event leaves no row, milliseconds."""
        return self.memory_ms or self.window_ms

    @property
    def number_width(self) -> int:
        """Numbers of one row: as configured; a tabular field has one, its own value."""
        return 1 if self.kind is ModalityKind.TABULAR else len(self.numbers)


class ScenarioSettings(Section):
    """One use of the embeddings, described by its natural-language query."""

    query: str = Field(min_length=1, max_length=MAX_CHARS)
    """The question that the embedding is conditioned on, in natural language: one line, without control characters."""
    prompt: str | None = None
    """Name of a tuned soft prompt, if any."""


class StoreSettings(Section):
    """State on disk."""

    data_dir: Path = Path("anchorstream-data")
    """All state of this machine: databases, snapshots, logs, the local broker. One `up` at a time owns it."""
    snapshot_interval_seconds: Annotated[float, Field(gt=0)] = 30.0
    """How often serve writes its index to disk, so that a restart need not read whole topics."""
    block_cache_bytes: Annotated[int, Field(ge=8 << 20)] = 128 << 20
    """Shared by all partitions of one process."""
    write_buffer_bytes: Annotated[int, Field(ge=4 << 20)] = 64 << 20
    """Shared by all partitions of one process."""
    sync_writes: bool = False
    """fsync every batch. Off, a killed process loses nothing; a power cut is healed from the `tokens` topic."""


class ServeSettings(Section):
    """HTTP service."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """Address to listen on. One that others reach needs `read_token`, or `insecure`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """0 = any free port; the chosen one is printed and written to `<data_dir>/run/serve.json`."""
    read_token: SecretStr | None = None
    """Bearer token asked of readers; None = none. Keep it out of a shared file: see Environment and secrets."""
    admin_token: SecretStr | None = None
    """Bearer token asked for changes (scenarios, erasure); None = who may read may change."""
    insecure: bool = False
    """Listen on an address that others reach without a token: where something in front of it asks who is there."""
    max_connections: Annotated[int, Field(ge=16, le=100_000)] = 1024
    """Open at once. Beyond it the one that has waited longest without a request goes; where none does, a new one gets
    503. Fewer where the process may not open so many files."""
    max_k: Annotated[int, Field(ge=1, le=10_000)] = 1000
    """Most neighbours of one request."""

    @field_validator("read_token", "admin_token")
    @classmethod
    def _visible(cls, value: SecretStr | None) -> SecretStr | None:
        # an empty one would match what is sent by who has none; others cannot be sent in a header as they are
        if value is not None and not _TOKEN.fullmatch(value.get_secret_value()):
            raise ValueError("a token is one or more visible ASCII characters, without spaces; leave it out for none")
        return value
