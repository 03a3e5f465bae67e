"""How the messages of a raw topic become events: where user, time, id and modality stand, and what is skipped. Pure.

Ingest judges by this, and replay routes by it. A topic without settings has the default names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from store.base.settings import ModalitySettings
from store.base.template import inner, value_inside
from store.base.user_id import user_id_fault
from stream.events.event_time import EventTime
from stream.events.field_names import names, plain
from stream.events.refused import Refused
from stream.rejection import ErrorCode, SkipReason, quote
from stream.settings import Condition, MappingSettings

MAX_ID_CHARS = 128
GIVEN_ID = "anchorstream.event_id"
"""Field of a raw event that came without the parts of its id: the one it is replayed with."""
HASHED = "blake2b:"
NUMBER, EMPTY = "number_from_text", "empty_is_absent"
"""What is counted as converted."""
_EXACT = 2**53
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)\.0+")
_DEFAULT = MappingSettings()
_SHOWN = 12


class TopicMapping:
    """The rules of one raw topic.

    user_id_field, ts_field, event_id_field, modality_field: where it stands, for whoever reads the common form itself.
    reads_ids: an id that is text may stand for another. modalities: those of the topic. only: the one that an event
    without a modality is of. converted: counted by NUMBER and EMPTY.
    """

    def __init__(self, topic: str, modalities: Sequence[str], settings: MappingSettings = _DEFAULT) -> None:
        self._topic = topic
        self.modalities = frozenset(modalities)
        self._table = settings.modalities
        self.only = modalities[0] if len(modalities) == 1 and not self._table else None
        self._user = _path(settings.user_id)
        self._time = _path(settings.ts)
        self._modality = _path(settings.modality)
        self.user_id_field = settings.user_id
        self._integers = settings.user_id_integers
        self.reads_ids = settings.user_id_integers and settings.numbers_from_text
        self.ts_field = settings.ts
        self.time = EventTime(settings)
        self._parts = () if isinstance(settings.event_id, str) else tuple(map(_path, settings.event_id))
        self.event_id_field = settings.event_id if isinstance(settings.event_id, str) else GIVEN_ID
        self._id = _path(self.event_id_field)
        self.modality_field = settings.modality
        self._where = tuple(map(_Where, settings.where))
        self.skip_without_value = settings.skip_without_value
        self.null_erases = settings.null_erases
        self._skip_without_user = settings.skip_without_user
        self._skip_other = settings.skip_other_modalities
        self.may_skip = bool(self._where) or self._skip_without_user or self._skip_other
        self.numbers_from_text = settings.numbers_from_text
        self.empty_is_absent = settings.empty_is_absent
        self.converted: Counter[str] = Counter()

    @property
    def fields(self) -> frozenset[str]:
        """Those that are no content where content is not named; of an id of several parts each is."""
        return frozenset({self.user_id_field, self.ts_field, self.event_id_field, self.modality_field})

    def prepare(self, raw: dict[str, Any]) -> None:
        """Take out of an event what counts as missing. Before anything else is asked of it."""
        if self.empty_is_absent and (empty := _drop_empty(raw)):
            self.converted[EMPTY] += empty

    def skipped(self, raw: dict[str, Any]) -> SkipReason | None:
        """Why the event is passed over; None: it is not."""
        if not all(condition.holds(raw) for condition in self._where):
            return SkipReason.WHERE
        if self._skip_other:
            value, name = self.named(raw)
            if name is None and (value is not None or self.only is None):
                return SkipReason.OTHER_MODALITY
        if self._skip_without_user and _at(raw, self._user) is None:
            return SkipReason.WITHOUT_USER
        return None

    def named(self, raw: dict[str, Any]) -> tuple[Any, str | None]:
        """What stands where the modality does (None: nothing), and the modality of this topic it names (None: none)."""
        value = _at(raw, self._modality)
        if value is None or (self.empty_is_absent and _is_empty(value)):
            return None, None
        if self._table:
            return value, self._table.get(text) if (text := _text(value)) is not None else None
        return value, value if value.__class__ is str and value in self.modalities else None

    def modality(self, raw: dict[str, Any]) -> str:
        """The event's modality. Raises Refused."""
        value, name = self.named(raw)
        if name is not None:
            return name
        if value is not None:
            known = self._shown(sorted(self._table or self.modalities))
            raise Refused(ErrorCode.UNKNOWN_MODALITY, f"{quote(value)}; on topic {self._topic}: {known or 'none'}")
        if self.only is not None:
            return self.only
        where = "" if self.modality_field == _DEFAULT.modality else f" in {plain(self.modality_field)}"
        carried = self._shown(sorted(self.modalities))
        raise Refused(ErrorCode.MISSING_MODALITY, f"topic {self._topic} carries {carried}: say which{where}")

    def user_text(self, raw: dict[str, Any]) -> Any:
        """What stands where the user's id does, as decimal digits where that is what integers are; None: nothing."""
        value = _at(raw, self._user)
        return self._whole(value) if self._integers else value

    def user_id(self, raw: dict[str, Any]) -> str:
        """The event's user. Raises Refused."""
        value = self.user_text(raw)
        if value is None:
            raise Refused(
                ErrorCode.MISSING_USER_ID, f"the event has no {plain(self.user_id_field)}; it has {names(raw)}"
            )
        if value.__class__ is not str:
            how = "; user_id_integers = true takes integers" if _digits(value) is not value else ""
            raise Refused(ErrorCode.INVALID_USER_ID, f"{quote(value)} is not a string{how}")
        return _checked(value)

    def user_of_key(self, key: bytes | None) -> str:
        """The user that a message's key names. Raises Refused."""
        if not key:
            raise Refused(ErrorCode.MISSING_USER_ID, "an erasure without a key")
        try:
            return _checked(key.decode())
        except UnicodeDecodeError as exc:
            raise Refused(ErrorCode.INVALID_USER_ID, f"the key {quote(key)}: {exc.reason}") from exc

    def ts_value(self, raw: dict[str, Any]) -> Any:
        """What stands where the time does. Raises Refused if nothing does."""
        if (value := _at(raw, self._time)) is None:
            raise Refused(ErrorCode.MISSING_TS, f"the event has no {plain(self.ts_field)}; it has {names(raw)}")
        return value

    def ts(self, raw: dict[str, Any]) -> int:
        """The event's time, epoch milliseconds. Raises Refused."""
        return self.time.of(self.ts_value(raw))

    def event_id(self, raw: dict[str, Any]) -> str | None:
        """The event's own id; None: it has none, and where it lay is its id. Raises Refused."""
        value = _at(raw, self._id)
        if value is None:
            return self._joined(raw) if self._parts else None
        if value.__class__ is not str or not 0 < len(value) <= MAX_ID_CHARS:
            why = f"{quote(value)} is not a string of 1 to {MAX_ID_CHARS} characters"
            raise Refused(ErrorCode.INVALID_EVENT_ID, why)
        return value

    def _joined(self, raw: dict[str, Any]) -> str | None:
        found = [_at(raw, part) for part in self._parts]
        if None in found:
            return None
        parts = []
        for (name, _), value in zip(self._parts, found, strict=True):
            if (text := _text(self._whole(value))) is None:
                why = f"{plain(name)} = {quote(value)} is not a string, number or boolean"
                raise Refused(ErrorCode.INVALID_EVENT_ID, why)
            parts.append(text)
        if not any(parts):
            raise Refused(ErrorCode.INVALID_EVENT_ID, f"{', '.join(plain(name) for name, _ in self._parts)}: empty")
        return joined(parts)

    def _whole(self, value: Any) -> Any:
        """An integer as its decimal digits; anything else as it is."""
        if self.numbers_from_text and value.__class__ is str and _WHOLE.fullmatch(value):
            return value.partition(".")[0]
        return _digits(value)

    def _shown(self, known: Sequence[str]) -> str:
        more = f", and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
        return ", ".join(map(plain, known[:_SHOWN])) + more


class TopicMappings:
    """Of all raw topics of a configuration, in its order."""

    def __init__(
        self, modalities: Mapping[str, ModalitySettings], settings: Mapping[str, MappingSettings] | None = None
    ) -> None:
        own: dict[str, list[str]] = {}
        for name, modality in modalities.items():
            own.setdefault(modality.topic, []).append(name)
        found = settings or {}
        self.by_topic = {topic: TopicMapping(topic, of, found.get(topic, _DEFAULT)) for topic, of in own.items()}

    def topic_named(self, raw: dict[str, Any], unknown: str | None = None) -> str | None:
        """The first topic of which the event names a modality. None: it names none anywhere.

        unknown: of an event that names none that there is; None = the first topic that has something where its events
        name theirs, and so will refuse or skip it.
        """
        for topic, mapping in self.by_topic.items():
            value, name = mapping.named(raw)
            if name is not None:
                return topic
            if value is not None and unknown is None:
                unknown = topic
        return unknown


def joined(parts: Sequence[str]) -> str:
    """Texts as one event id, `a|b`: no two lists give the same, and two or more texts none that a place has.

    What is longer than an id may be is hashed (BLAKE2b, 256 bits).
    """
    text = "|".join(part.replace("\\", "\\\\").replace("|", "\\|") for part in parts)
    if 0 < len(text) <= MAX_ID_CHARS and not text.startswith(HASHED):
        return text
    return HASHED + blake2b(text.encode(), digest_size=32).hexdigest()


_Path = tuple[str, tuple[str, ...]]


def _path(name: str) -> _Path:
    return name, inner(name)


def _at(raw: dict[str, Any], path: _Path) -> Any:
    """`value_at`, with the path taken apart once."""
    value = raw.get(path[0])
    return value_inside(raw, path[1]) if value is None and path[1] else value


class _Where:
    def __init__(self, settings: Condition) -> None:
        self._field = _path(settings.field)
        self._present = settings.present
        wanted = settings.equals if isinstance(settings.equals, tuple) else (settings.equals,)
        self._wanted = frozenset(map(_kind, wanted))

    def holds(self, raw: dict[str, Any]) -> bool:
        value = _at(raw, self._field)
        if self._present is not None:
            return (value is not None) is self._present
        return value.__class__ in _SCALARS and _kind(value) in self._wanted


def _checked(user_id: str) -> str:
    if fault := user_id_fault(user_id):
        raise Refused(ErrorCode.INVALID_USER_ID, f"{quote(user_id)}: {fault}")
    return user_id


_SCALARS = frozenset({str, int, float, bool})


def _kind(value: Any) -> tuple[str, Any]:
    """1 = 1.0, but neither is true."""
    return "number" if value.__class__ in (int, float) else value.__class__.__name__, value


def _digits(value: Any) -> Any:
    """An integer, or a whole number that is surely one, as its decimal digits; anything else as it is."""
    if value.__class__ is int:
        return str(value)
    if value.__class__ is float and -_EXACT < value < _EXACT and value.is_integer():
        return str(int(value))
    return value


def _text(value: Any) -> str | None:
    """A scalar as text; None for anything else."""
    if value.__class__ is bool:
        return "true" if value else "false"
    value = _digits(value)
    return repr(value) if value.__class__ is float else value if value.__class__ is str else None


def _is_empty(value: Any) -> bool:
    return value.__class__ is str and (not value or value.isspace())


def _drop_empty(raw: dict[str, Any]) -> int:
    """Take empty texts out, also of maps inside; how many."""
    dropped, inside = 0, [raw]
    while inside:
        fields = inside.pop()
        for name in [name for name, value in fields.items() if _is_empty(value)]:
            del fields[name]
            dropped += 1
        inside += [value for value in fields.values() if value.__class__ is dict]
    return dropped
