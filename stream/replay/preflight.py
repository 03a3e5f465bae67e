"""What ingest would make of rows, before any is sent: its own rules, with clocks that begin with these rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from store.base.settings import ModalitySettings
from store.base.template import value_at
from stream.clock import EventClock
from stream.events.decode import decode
from stream.events.event import Event
from stream.events.field_names import paths
from stream.events.mapping import TopicMapping
from stream.events.refused import Refused
from stream.events.validate import Validator
from stream.ingest.judge import Judge, Verdict
from stream.rejection import ErrorCode, Rejection, Skipped
from stream.replay.replay import Outgoing
from stream.replay.row_file import Row
from stream.settings import IngestSettings, MappingSettings

SAMPLE_ROWS = 1000
UNSENDABLE = "not_sendable"
"""Among the refused: rows that are no message of any broker."""
MAX_NAMES = 1000
"""So many names of fields are counted for each modality."""
NO_MODALITY = ""
"""Of rows that are of none."""


class Refusals(NamedTuple):
    """Rows refused for one reason, and the first of them. detail: in words."""

    rows: int
    place: str
    detail: str


@dataclass(slots=True)
class FileVerdict:
    """What became of a file's rows. accepted: by modality. skipped: as the mapping says, by reason. refused: by code.

    undecided: too few follow to tell whether the stream's clock would follow them. whole: no row was left out.
    """

    file: str
    whole: bool
    rows: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    refused: dict[str, Refusals] = field(default_factory=dict)

    @property
    def undecided(self) -> int:
        """Rows without a verdict."""
        refused = sum(of.rows for of in self.refused.values())
        return self.rows - self.accepted.total() - self.skipped.total() - refused

    @property
    def useless(self) -> bool:
        """Whether there are rows and none would be accepted."""
        return self.rows > 0 and not self.accepted and not self.undecided

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "file": self.file,
            "whole": self.whole,
            "rows": self.rows,
            "accepted": dict(self.accepted),
            "skipped": dict(self.skipped),
            "refused": {code: of._asdict() for code, of in self.refused.items()},
            "undecided": self.undecided,
        }


@dataclass(slots=True)
class FieldsSeen:
    """Fields of one modality's rows on a topic. expected: how many rows carry each field that is configured.
    others: the same of the fields that are not."""

    topic: str
    modality: str
    rows: int = 0
    expected: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)


class Preflight:
    """Judges rows and keeps the verdicts.

    Args:
        partition_of: the partition of a key on a raw topic.
        dead_letters: where the router puts what belongs nowhere.
    """

    def __init__(
        self,
        modalities: Mapping[str, ModalitySettings],
        mapping: Mapping[str, MappingSettings],
        settings: IngestSettings,
        *,
        partition_of: Callable[[bytes | None], int],
        dead_letters: str,
    ) -> None:
        self._modalities = modalities
        self._mapping = mapping
        self._settings = settings
        self._partition_of = partition_of
        self._dead_letters = dead_letters
        self.files: dict[str, FileVerdict] = {}
        self.fields: dict[tuple[str, str], FieldsSeen] = {}
        self._mappings = self._validator(EventClock.of(settings, modalities)).mappings()
        self._expected = self._configured_fields()

    @property
    def useless(self) -> list[FileVerdict]:
        """Files of which nothing would be accepted."""
        return [verdict for verdict in self.files.values() if verdict.useless]

    def judge(self, rows: Iterable[tuple[Row, Outgoing]], wall_ms: int, *, whole: bool) -> None:
        """Judge rows in the order they would be sent; the clocks begin anew. whole: all rows there are."""
        clock = EventClock.of(self._settings, self._modalities)
        judge = Judge(self._validator(clock), clock)
        for message, result in judge.judge(self._messages(rows, whole), wall_ms, may_reset=False):
            self._note(message.row, result)
        for source in [*judge.held()]:
            if whole or clock.get(source) is None:
                for message, result in judge.conclude(source, wall_ms):
                    self._note(message.row, result)

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        fields = [
            {
                "topic": seen.topic,
                "modality": seen.modality,
                "rows": seen.rows,
                "expected": dict(seen.expected),
                "others": dict(seen.others),
            }
            for seen in self.fields.values()
        ]
        return {"files": [verdict.to_dict() for verdict in self.files.values()], "fields": fields}

    def _validator(self, clock: EventClock) -> Validator:
        return Validator(self._modalities, self._settings, clock, mapping=self._mapping)

    def _messages(self, rows: Iterable[tuple[Row, Outgoing]], whole: bool) -> Iterator[_Message]:
        offset = 0
        for row, message in rows:
            verdict = self.files.setdefault(row.file, FileVerdict(row.file, whole))
            verdict.rows += 1
            if message.unsendable:
                self._refuse(row, UNSENDABLE, row.fault or message.unsendable)
            elif message.topic == self._dead_letters:
                self._look(message.value, NO_MODALITY)
                detail = dict(message.headers or ()).get("detail") or b""
                self._refuse(row, ErrorCode.MISSING_MODALITY, detail.decode())
            else:
                self._look(message.value, message.topic)
                yield _Message(row, message, self._partition_of(message.key), offset)
                offset += 1

    def _note(self, row: Row, result: Verdict | Any) -> None:
        if isinstance(result, Event):
            self.files[row.file].accepted[result.modality] += 1
        elif isinstance(result, Skipped):
            self.files[row.file].skipped[result.reason.value] += 1
        elif isinstance(result, Rejection):
            self._refuse(row, result.code, result.detail)

    def _refuse(self, row: Row, code: str, detail: str) -> None:
        refused = self.files[row.file].refused
        before = refused.get(str(code), Refusals(0, row.place, detail))
        refused[str(code)] = before._replace(rows=before.rows + 1)

    def _look(self, value: bytes | None, topic: str) -> None:
        """Count the fields of a row, whatever becomes of it."""
        raw = decode(value, self._settings.max_event_bytes)
        if isinstance(raw, Rejection):
            return
        mapping = self._mappings.get(topic)
        modality = NO_MODALITY
        if mapping is not None:
            mapping.prepare(raw)
            modality = _modality(mapping, raw)
        seen = self.fields.setdefault((topic, modality), FieldsSeen(topic, modality))
        seen.rows += 1
        expected = self._expected.get((topic, modality)) or self._common(topic)
        for name in expected:
            seen.expected[name] += value_at(raw, name) is not None
        for name in paths(raw):
            known = name in expected or (mapping is not None and name in mapping.fields)
            if not known and (name in seen.others or len(seen.others) < MAX_NAMES):
                seen.others[name] += 1

    def _configured_fields(self) -> dict[tuple[str, str], tuple[str, ...]]:
        contents = self._validator(EventClock.of(self._settings, self._modalities)).contents()
        return {
            (topic := self._modalities[name].topic, name): (*self._common(topic), *content.fields)
            for name, content in contents.items()
        }

    def _common(self, topic: str) -> tuple[str, ...]:
        mapping = self._mappings.get(topic)
        return () if mapping is None else (mapping.user_id_field, mapping.ts_field)


class _Message:
    """A row as the client library would give it to ingest."""

    __slots__ = ("_message", "_offset", "_partition", "row")

    def __init__(self, row: Row, message: Outgoing, partition: int, offset: int) -> None:
        self.row = row
        self._message, self._partition, self._offset = message, partition, offset

    def topic(self) -> str:
        return self._message.topic

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def value(self) -> bytes | None:
        return self._message.value

    def timestamp(self) -> tuple[int, int]:
        return 0, 0

    def headers(self) -> None:
        return None


def _modality(mapping: TopicMapping, raw: dict[str, Any]) -> str:
    try:
        return mapping.modality(raw)
    except Refused:
        return NO_MODALITY
