"""What a stream must become: judged, windowed and embedded in memory, by code that knows no Kafka and no disk."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.settings.config import Settings
from encoder.forward.user_encoder import UserEncoder
from encoder.model.text_encoder import TextEncoder
from store.base.settings import ModalitySettings
from store.window.rows import KIND_EVENT, KIND_SUMMARY, Summary, parse_key, unpack_event, unpack_field, unpack_summary
from store.window.silence import SilenceTicks, floor_hour
from store.window.user_window import ModalityWindow, UserWindow
from stream.clock import EventClock
from stream.events.event import Event, Pack
from stream.events.validate import Validator
from stream.ingest.judge import Judge
from stream.kafka.partitioner import partition_of
from stream.processor.encode_events import encode_events
from stream.rejection import Rejection
from tests.models.buffer_model import BufferModel
from tests.support.behaviour import Message
from tests.support.raw_message import RawMessage


class Expected(NamedTuple):
    """One user: what the buffer holds, and its embeddings (scenarios, 128) in the order of `scenarios`."""

    window: UserWindow
    vectors: NDArray[np.float32]


def windows_of(rows: Mapping[bytes, bytes], modalities: Mapping[str, ModalitySettings]) -> dict[str, UserWindow]:
    """Windows of a set of rows, ordered as design.md says: by (time, name)."""
    items: dict[tuple[str, str], list[tuple[int, str, list[float], NDArray[np.float16]]]] = defaultdict(list)
    summaries: dict[tuple[str, str], Summary] = {}
    for raw, value in rows.items():
        key = parse_key(raw)
        place = (key.user_id, key.modality)
        if key.kind == KIND_SUMMARY:
            summaries[place] = unpack_summary(value)
            continue
        width = modalities[key.modality].number_width
        if key.kind == KIND_EVENT:
            event = unpack_event(value)
            ts, numbers, vector = key.ts, event.numbers, event.vector
            if not vector.size:  # remembered
                continue
        else:
            field = unpack_field(value)
            ts, numbers, vector = field.ts, field.numbers, field.vector
            if not vector.size:
                continue
        padded = [*numbers.tolist(), *[float("nan")] * width][:width]
        items[place].append((ts, key.name, padded, vector))
    out: dict[str, dict[str, ModalityWindow]] = defaultdict(dict)
    for place, summary in summaries.items():
        own = sorted(items[place], key=lambda item: (item[0], item[1]))
        width = modalities[place[1]].number_width
        dim = len(summary.vector_sum)
        out[place[0]][place[1]] = ModalityWindow(
            summary,
            np.array([item[0] for item in own], np.int64),
            [item[1] for item in own],
            np.array([item[2] for item in own], np.float32).reshape(len(own), width),
            np.stack([item[3] for item in own]) if own else np.zeros((0, dim), np.float16),
        )
    return {user: UserWindow(user, dict(sorted(parts.items()))) for user, parts in out.items()}


class Sent(NamedTuple):
    """A message as the broker has it. source: what its raw topic was called in `covers` when it was sent."""

    message: Message
    source: str
    partition: int
    offset: int


class Reference:
    """Takes what was sent, whatever the order, round by round: between rounds everything has arrived.

    letters: places (source, partition, offset) of messages that must be dead letters, and their error.
    """

    def __init__(self, settings: Settings, texts: TextEncoder) -> None:
        self.letters: dict[tuple[str, int, int], str] = {}
        self._settings = settings
        self._texts = texts
        self._judges: dict[tuple[str, int], Judge] = {}
        granularity = int(settings.processor.expiry_granularity_seconds * 1000)
        self._models = [
            BufferModel(settings.modalities, texts.dim, granularity) for _ in range(settings.kafka.partitions)
        ]

    def take(self, sent: Iterable[Sent]) -> None:
        """Judge these, and apply what is accepted. Those that no ingest may accept included."""
        events: list[list[Event]] = [[] for _ in self._models]
        wall_ms = time.time_ns() // 1_000_000
        parts: dict[tuple[str, int], list[RawMessage]] = defaultdict(list)
        # in the order of the raw partitions: what is too old depends on that alone (docs/adr/0004)
        for message, source, partition, offset in sorted(sent, key=lambda s: (s.source, s.partition, s.offset)):
            if message.fate in ("accepted", "duplicate"):
                parts[source, partition].append(RawMessage(message.topic, partition, offset, message.value))
            else:
                self.letters[source, partition, offset] = message.fate
        for (source, partition), messages in parts.items():
            judge = self._judges.setdefault((source, partition), self._judge_of(source))
            place = (messages[0].topic(), partition)
            for message, event in chain(judge.judge(messages, wall_ms), judge.conclude(place, wall_ms)):
                if isinstance(event, Rejection):
                    assert event.code == "ts_too_old", (message, event)
                    self.letters[source, partition, message.offset()] = event.code
                else:
                    events[partition_of(event.user_id, len(events))].append(event)
        for model, of_partition in zip(self._models, events, strict=True):
            if of_partition:
                model.batch(encode_events([Pack.of(0, of_partition)], self._texts))

    def expected(self, users: UserEncoder) -> dict[str, Expected]:
        """What must be served by now, time having passed for everybody as far as the partition's events say."""
        scenarios, ticks = sorted(self._settings.scenarios), SilenceTicks(self._settings.model.silence_days)
        out = {}
        for model in self._models:
            horizon = floor_hour(model.stream_time)
            for user, found in windows_of(model.rows(), self._settings.modalities).items():
                window = found.at(ticks.stands_at(user, found.newest_event, horizon))
                out[user] = Expected(window, users.encode_from_scratch([window], scenarios)[0])
        return out

    def _judge_of(self, source: str) -> Judge:
        """A partition has a clock of its own, and so has a topic that was made anew."""
        settings = self._settings
        clock = EventClock.of(settings.ingest, settings.modalities)
        validator = Validator(settings.modalities, settings.ingest, clock, lambda _: source, mapping=settings.mapping)
        return Judge(validator, clock)


def expected(settings: Settings, sent: Iterable[Sent], texts: TextEncoder, users: UserEncoder) -> dict[str, Expected]:
    """What must be served after these messages, all of one round."""
    reference = Reference(settings, texts)
    reference.take(sent)
    return reference.expected(users)
