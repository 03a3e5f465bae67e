"""Settings of what speaks Kafka: broker, topics, ingest, processor."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

from pydantic import Field, field_validator

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


class Clock(StrEnum):
    """What "now" means when an event's timestamp is judged: the wall, or the newest timestamp of the stream."""

    WALL = "wall"
    STREAM = "stream"


class IngestSettings(Section):
    """Validation and packing of raw events."""

    clock: Clock = Clock.WALL
    """`wall` for live traffic. `stream` to replay history: an event is too old by its partition's newest event time."""
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
    """Prometheus endpoint of a role, and how often the monitor reads lag. serve has its own at `/metrics`."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 in a container."""
    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """None = none; 0 = any free one, written to `<data_dir>/run/scrape/`. `up` gives it to the monitor, any free one to
    the other roles."""
    lag_interval_seconds: Annotated[float, Field(ge=0.2, le=3600)] = 5.0
    """Of the monitor."""
