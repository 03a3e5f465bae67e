"""Where a dead letter goes back to, and whether it would be taken there now. Pure; the clocks are passed in.

Ingest's own rules judge the letter before it is sent, so that a letter that would only come back stays where it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from store.base.settings import ModalitySettings
from stream.clock import EventClock
from stream.dead_letters.read import RefusedEvent
from stream.events.decode import decode
from stream.events.event import unpack
from stream.events.event_id import derived_id, with_event_id
from stream.events.mapping import TopicMappings
from stream.events.validate import Validator
from stream.rejection import ErrorCode, Rejection, Skipped, quote
from stream.settings import IngestSettings, MappingSettings
from stream.topics import Topics


class Target(NamedTuple):
    """One message. partition: -1 = by its key. headers: the original's."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes | None], ...] = ()


class Left(NamedTuple):
    """Why a letter stays. code: an error code of stream/rejection.py, or one of LEFT."""

    code: str
    detail: str


TRUNCATED = "truncated"
NO_SOURCE = "no_source"
NO_TOPIC = "no_topic"
NOT_RAW = "not_raw"
REMOVED = "removed"
SKIPPED = "skipped"
UNWANTED = "unwanted"
LEFT = {
    TRUNCATED: "the letter holds the beginning of the value, or of the key, only",
    NO_SOURCE: "a foreign producer wrote the letter and does not say where from",
    NO_TOPIC: "its source is no raw topic of this configuration, or not there any more",
    NOT_RAW: "a pack of `events`, not a raw event: replayed without --fixed-by",
    REMOVED: "it was removed from the topic during the replay",
    SKIPPED: "the script said so",
    UNWANTED: "its topic's mapping skips it now",
}
"""Reasons to leave a letter, beside what ingest would refuse it for; docs/cli.md lists them."""


class Targets:
    """Judges letters one after the other, in source order.

    Args:
        partitions: of each topic there is.
        clock: ingest's, at its committed offsets; goes on with what is judged good, as ingest's will.
    """

    def __init__(
        self,
        topics: Topics,
        modalities: Mapping[str, ModalitySettings],
        settings: IngestSettings,
        partitions: Mapping[str, int],
        clock: EventClock,
        mapping: Mapping[str, MappingSettings] | None = None,
    ) -> None:
        self._topics = topics
        self._modalities = modalities
        self._max_bytes = settings.max_event_bytes
        self._raw_topics = {m.topic for m in modalities.values()}
        self._partitions = partitions
        self._mappings = TopicMappings(modalities, mapping)
        self._validator = Validator(modalities, settings, clock, mapping=mapping)

    def unfit(self, letter: RefusedEvent, *, scripted: bool) -> Left | None:
        """Why the letter cannot go anywhere, whatever a script makes of its value; None if it can."""
        topic = letter.source_topic
        if letter.truncated is not None:
            return Left(TRUNCATED, f"the first {len(letter.value or b'')} of {letter.truncated} bytes")
        if letter.key_truncated is not None:
            return Left(TRUNCATED, f"the first {len(letter.key or b'')} of the key's {letter.key_truncated} bytes")
        if topic is None:
            return Left(NO_SOURCE, LEFT[NO_SOURCE])
        if topic not in self._partitions or topic not in self._raw_topics | {self._topics.events}:
            return Left(NO_TOPIC, f"{topic}: {LEFT[NO_TOPIC]}")
        if scripted and topic == self._topics.events:
            return Left(NOT_RAW, LEFT[NOT_RAW])
        return None

    def target(self, letter: RefusedEvent, value: bytes | None, wall_ms: int) -> Target | Left:
        """What to send of a letter that is not `unfit`. value: the letter's own, or what the script made of it."""
        assert letter.source_topic is not None
        if letter.source_topic == self._topics.events:
            return self._pack(letter, value)
        if not value:
            return Left(ErrorCode.NULL_VALUE, "the message has no value")
        topic = letter.source_topic
        partition, offset = letter.source_partition, letter.source_offset
        if partition is None or offset is None:  # a line of a file: `anchorstream replay` could not tell its topic
            named = self._named_topic(value)
            if named is None:
                return Left(ErrorCode.MISSING_MODALITY, f"names none of {', '.join(self._modalities)}")
            topic, partition, place = named, -1, (self._topics.dead_letters, letter.partition, letter.offset)
        else:
            place = (letter.source_name or topic, partition, offset)
        value = with_event_id(value, derived_id(*place), self._mappings.by_topic[topic])
        verdict = self._validator.validate(value, topic, partition, place[2], wall_ms, wall_ms)
        if isinstance(verdict, Rejection):
            return Left(*verdict)
        if isinstance(verdict, Skipped):
            return Left(UNWANTED, f"{LEFT[UNWANTED]}: {verdict.reason}")
        # the same partition: where ingest's clock stands by it, and where a producer's own partitioner put the user
        to = partition if partition < self._partitions[topic] else -1
        return Target(topic, to, letter.key, value, letter.headers)

    def _pack(self, letter: RefusedEvent, value: bytes | None) -> Target | Left:
        """A message of `events` that the processor refused; its key is empty and its partition the user's."""
        try:
            modalities = set(unpack(value or b"").modalities)
        except ValueError as exc:
            return Left(ErrorCode.INVALID_PACK, quote(str(exc)))
        if unknown := modalities - self._modalities.keys():
            return Left(ErrorCode.UNKNOWN_MODALITY, f"{quote(min(unknown))} is not configured")
        if letter.error != ErrorCode.UNKNOWN_MODALITY or letter.source_partition is None or value is None:
            return Left(ErrorCode.INVALID_PACK, "not written by ingest")
        return Target(self._topics.events, letter.source_partition, None, value)

    def _named_topic(self, value: bytes) -> str | None:
        event = decode(value, self._max_bytes)
        if isinstance(event, Rejection):
            return None
        named = (topic for topic, own in self._mappings.by_topic.items() if own.named(event)[1] is not None)
        return next((topic for topic in named if topic in self._partitions), None)
