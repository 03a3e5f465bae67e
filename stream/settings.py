"""Settings of what speaks Kafka: broker, topics, mapping, ingest, processor."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Self
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from store.base.settings import Section
from stream.broker_properties import fault


class KafkaSettings(Section):
    """Broker and topics."""

    bootstrap_servers: str = Field(default="embedded", min_length=1)
    """`embedded`, `local` (Apache Kafka started by us) or `host:port,…`."""
    topic_prefix: str = Field(default="anchorstream", pattern=r"^[a-zA-Z0-9._-]{1,100}$")
    """Our topics and groups are `<prefix>.events`, `<prefix>.tokens`, …; two installations on one cluster need two."""
    partitions: Annotated[int, Field(ge=1, le=1024)] = 4
    """Of our topics: the most processes of one role that can share the work. Cannot be changed later."""
    replication_factor: Annotated[int, Field(ge=1, le=9)] = 1
    """Of topics that we create. 3 where the cluster has three brokers."""
    dead_letter_max_bytes: Annotated[int, Field(ge=1 << 20, le=16 << 20)] = 16 << 20
    """`max.message.bytes` of the dead-letter topic; refused messages that are longer are cut. Many managed clusters
    allow 8 MiB at most."""
    properties: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Passed to librdkafka as they are, but for those that a guarantee rests on, or that not every role can honour."""

    @field_validator("properties")
    @classmethod
    def _not_ours(cls, value: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
        if (wrong := fault(value)) is not None:
            raise ValueError(wrong)
        return value

    @property
    def managed(self) -> bool:
        """Whether `anchorstream up` starts the broker itself."""
        return self.bootstrap_servers in ("embedded", "local")


class TimeUnit(StrEnum):
    """Of a number that is a time."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    MICROSECONDS = "us"
    NANOSECONDS = "ns"


Name = Annotated[str, Field(min_length=1)]
"""Of a field, or a path like `customer.id`."""
Scalar = bool | int | float | str


class Condition(Section):
    """What must hold of one field; one of a list of tables."""

    field: Name
    """The field, or its path."""
    equals: Scalar | tuple[Scalar, ...] | None = None
    """Its value, or one of several: texts, numbers, true or false, each equal to its own kind only."""
    present: bool | None = None
    """true: it is there and not null; false: it is not."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.equals is None) is (self.present is None):
            raise ValueError("a condition has either `equals` or `present`")
        return self


class MappingSettings(Section):
    """How the messages of one raw topic become events. Fields are named by dotted path; a key that is the whole path
    comes first."""

    user_id: Name = "user_id"
    """Where the user's id is."""
    user_id_integers: bool = False
    """Take an integer for an id: its exact decimal digits. `17850.0`, as tables with gaps write integers, is one below
    2^53; so is the text of it with `numbers_from_text`."""
    ts: Name = "ts"
    """Where the event's time is."""
    ts_unit: TimeUnit = TimeUnit.MILLISECONDS
    """Of times that are numbers, since 1970 in UTC."""
    ts_pattern: str | None = None
    """`strptime` pattern (`%d/%m/%Y %H:%M`) of times that are texts and not RFC 3339. None = the common dialects of
    that."""
    ts_zone: str | None = None
    """Time zone (`Europe/Paris`) of times that are texts without an offset; None = they are refused. Of an hour that
    occurs twice the first is meant; one that is skipped is read with the offset before the change."""
    ts_local: bool = False
    """Numbers count from 1970 in the local time of `ts_zone`, as tables write times without a zone."""
    event_id: Name | Annotated[tuple[Name, ...], Field(min_length=1, max_length=16)] = "event_id"
    """Where the event's id is: one path to a text of 1 to 128 characters, or a list of paths to texts, numbers, true or
    false, which together are the id. Where one is missing the event has none."""
    modality: Name = "modality"
    """Where the event says which modality it is."""
    modalities: dict[str, str] = Field(default_factory=dict)
    """What stands there → modality. Empty = the modality's own name stands there."""
    where: Annotated[tuple[Condition, ...], Field(max_length=64)] = ()
    """Conditions like `{field = "status", equals = "paid"}` or `{field = "sku", present = true}`. An event for which
    one does not hold is skipped: counted, no dead letter."""
    skip_without_value: bool = False
    """Skip a message without a value, as a deletion on a compacted topic is. It erases nothing here."""
    null_erases: bool = False
    """A message without a value erases the user that its key names, in all modalities, up to the message's own time.
    Only where keys are user ids."""
    skip_without_user: bool = False
    """Skip an event without a user."""
    skip_other_modalities: bool = False
    """Skip an event that is of none of the topic's modalities."""
    numbers_from_text: bool = False
    """Take a text that is a decimal number for it: in `numbers`, as a time, as a tabular field (there one with leading
    zeros stays text). Counted."""
    empty_is_absent: bool = False
    """Take an empty or blank text for a missing field. Counted."""

    @field_validator("ts_zone")
    @classmethod
    def _known_zone(cls, value: str | None) -> str | None:
        try:
            return value if value is None else ZoneInfo(value).key
        except (ValueError, KeyError, OSError) as exc:
            raise ValueError("not a time zone that this machine knows, like Europe/Paris") from exc

    @field_validator("ts_pattern")
    @classmethod
    def _whole_pattern(cls, value: str | None) -> str | None:
        if value is not None:
            _has_offset(value)
        return value

    @model_validator(mode="after")
    def _placed(self) -> Self:
        if self.ts_pattern is not None and self.ts_zone is None and not _has_offset(self.ts_pattern):
            raise ValueError("times of a `ts_pattern` without %z have no offset: set `ts_zone`")
        if self.null_erases and self.skip_without_value:
            raise ValueError("`null_erases` and `skip_without_value` say two things of one message")
        if self.ts_local and self.ts_zone is None:
            raise ValueError("`ts_local` is a time of `ts_zone`: set it")
        return self


_MOMENTS = (datetime(2023, 11, 25, 22, 45, 31, tzinfo=UTC), datetime(2024, 2, 9, 13, 7, 5, tzinfo=UTC))


def _has_offset(pattern: str) -> bool:
    """Whether times in this `strptime` pattern do. Raises ValueError for one that cannot be read, or does not tell a
    day, or tells half of an hour."""
    if "%Z" in pattern:
        raise ValueError("%Z tells no offset; use %z, or write the name as it stands and set `ts_zone`")
    for moment in _MOMENTS:
        try:
            found = datetime.strptime(moment.strftime(pattern), pattern)
        except (ValueError, re.error) as exc:  # re: a directive that comes twice
            raise ValueError(f"no pattern of strptime: {exc}") from exc
        if found.date() != moment.date() or found.hour not in (0, moment.hour):
            raise ValueError("a pattern tells year, month and day, and with %I also %p")
    return found.tzinfo is not None


class Clock(StrEnum):
    """What "now" means when an event's timestamp is judged: the wall, or the newest timestamp of the stream."""

    WALL = "wall"
    STREAM = "stream"


class IngestSettings(Section):
    """Validation and packing of raw events."""

    clock: Clock = Clock.WALL
    """`wall` for live traffic. `stream` to replay history: an event is too old by its partition's newest event time,
    and time passes by events alone: without any nothing expires, and nobody is embedded again for being silent."""
    max_future_seconds: Annotated[float, Field(ge=0)] = 600.0
    """Events further ahead of the wall clock are refused."""
    max_age_days: Annotated[float, Field(gt=0)] = 7300.0
    """With `clock = "stream"`: events older than this by the wall clock are refused whatever the stream's time."""
    max_ahead_days: Annotated[float, Field(gt=0)] | None = None
    """With `clock = "stream"`: events further ahead of their partition's newest are refused, unless 32 in a row agree.
    One wrong time stamp can make the window forget no more than this. None = a third of the shortest window."""
    max_event_bytes: Annotated[int, Field(ge=256, le=900_000)] = 65_536
    """Larger messages are refused."""
    batch_messages: Annotated[int, Field(ge=1, le=100_000)] = 2000
    """Most raw messages read at once."""
    pack_events: Annotated[int, Field(ge=1, le=4096)] = 64
    """At most this many events of one partition travel in one message of the `events` topic."""

    def max_ahead_ms(self, windows_ms: Iterable[int]) -> int:
        """`max_ahead_days` in milliseconds. windows_ms: of all modalities."""
        if self.max_ahead_days is not None:
            return int(self.max_ahead_days * 86_400_000)
        return min(windows_ms) // 3


class ProcessorSettings(Section):
    """Encoding of texts and the token buffer's writes."""

    batch_messages: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Most messages of `events` (packs, see `ingest.pack_events`) applied in one batch."""
    batch_wait_seconds: Annotated[float, Field(ge=0)] = 0.05
    """Longest wait for a batch to fill."""
    text_batch: Annotated[int, Field(ge=1, le=4096)] = 64
    """Texts encoded in one forward pass."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """CPU threads of the text encoder. More than one pays only where the processor has cores of its own: measured on
    two cores shared by all roles, 2 threads encode a sixth of what 1 thread does."""
    text_cache_entries: Annotated[int, Field(ge=0)] = 200_000
    """A cached text vector takes about 1 KB."""
    standby: bool = False
    """Follow the state of all partitions that other processors own, so that a take-over reads only what is new. Each
    instance then holds the whole state on its disk."""
    expiry_granularity_seconds: Annotated[float, Field(ge=1)] = 3600.0
    """The window's lower edge moves in steps of this, so that a user is not refreshed for every expiring event."""


class MetricsSettings(Section):
    """Port for Prometheus and probes, and how often the monitor reads lag. serve answers both on its own port, too."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 in a container."""
    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """None = none; 0 = any free one, written to `<data_dir>/run/scrape/`. `up` gives it to the monitor, any free one to
    the other roles."""
    lag_interval_seconds: Annotated[float, Field(ge=0.2, le=3600)] = 5.0
    """Of the monitor."""
