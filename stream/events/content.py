"""What one modality makes of an event's own fields: text, numbers, or fields. Pure.

Numbers are numbers (a numeric string is refused, or read where the mapping says so), null = missing, what the config
does not name is ignored unless the modality has no template or is tabular, and then every scalar at the top level
counts. A configured field that an event does not carry is counted: a producer that renames one makes no other error.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

from store.base.settings import ModalityKind, ModalitySettings
from store.base.template import Template, inner, value_inside
from stream.events.event import FieldValue, Numbers
from stream.events.field_names import names, plain
from stream.events.mapping import NUMBER, TopicMapping
from stream.events.refused import Refused
from stream.rejection import ErrorCode, quote

MAX_NAME_CHARS = 128
MAX_TEXT_CHARS = 2000
RESERVED = frozenset({"event_id", "user_id", "ts", "modality"})
_MAX_F4 = 3.4028235e38
_NUMBERS = (float, int)
DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_CANONICAL = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
"""Without leading zeros or an exponent: `01234` and `1e5` may be codes, as are long numbers."""
_CODE_CHARS = 15


class Content:
    """The rules of one modality, and how many of the events it judged carried each configured field.

    judged: events. missing: of these, how many did not carry a field. incomplete: the last of those.
    """

    def __init__(self, settings: ModalitySettings, mapping: TopicMapping) -> None:
        """mapping: of its topic."""
        self._mapping = mapping
        self._tabular = settings.kind is ModalityKind.TABULAR
        self._required = settings.require_content
        self._template = Template(settings.text) if settings.text else None
        self._numbers = [(name, inner(name)) for name in settings.numbers]
        self._not_text = RESERVED | set(settings.numbers) | mapping.fields
        named = () if self._template is None else self._template.fields
        self.fields = () if self._tabular else tuple(dict.fromkeys((*named, *settings.numbers)))
        self.judged = 0
        self.missing: Counter[str] = Counter()
        self.incomplete: dict[str, Any] = {}
        self._absent: list[str] = []

    def of(self, raw: dict[str, Any]) -> tuple[str, Numbers, dict[str, FieldValue] | None]:
        """Text, numbers and fields of an event. Raises Refused."""
        self.judged += 1
        if self._tabular:
            fields = self._fields(raw)
            if not fields and self._required:
                raise Refused(ErrorCode.NO_CONTENT, f"no field but {names(raw)}")
            return "", (), fields
        absent = self._absent
        absent.clear()
        numbers = tuple([self._number(raw, name, path) for name, path in self._numbers]) if self._numbers else ()
        if self._template is None:
            parts = [f"{k}: {scalar(k, raw[k])}" for k in sorted(raw.keys() - self._not_text) if _is_scalar(raw[k])]
            text = ", ".join(parts)
        else:
            text = self._template.render(raw, self._as_text)
        text = " ".join(text.split())[:MAX_TEXT_CHARS]
        if absent or not text:
            self._note_absent(raw, text)
        return text, numbers, None

    def forget(self) -> None:
        """Count anew."""
        self.judged = 0
        self.missing.clear()
        self.incomplete = {}

    def _note_absent(self, raw: dict[str, Any], text: str) -> None:
        absent = set(self._absent)
        if absent:
            self.missing.update(absent)
            self.incomplete = raw
        nothing = len(absent) == len(self.fields)
        if nothing and self._required and (not text or (self._template is not None and self._template.fields)):
            wanted = f"none of {', '.join(map(plain, self.fields))}" if self.fields else "no text"
            raise Refused(ErrorCode.NO_CONTENT, f"{wanted}; it has {names(raw)}")

    def _number(self, raw: dict[str, Any], name: str, path: tuple[str, ...]) -> float | None:
        value = raw.get(name)
        if value.__class__ is float and -_MAX_F4 <= value <= _MAX_F4:
            return value
        if value is None:
            if path:
                value = value_inside(raw, path)
            if value is None:
                self._absent.append(name)
        if value.__class__ is str and self._mapping.numbers_from_text:
            value = self._read(value, DECIMAL)
        return number(name, value)

    def _read(self, value: str, form: re.Pattern[str]) -> float | str:
        """The number that a text of this form is; any other text as it is."""
        text = value.strip()
        if form.fullmatch(text) is None:
            return value
        self._mapping.converted[NUMBER] += 1
        return float(text)

    def _as_text(self, name: str, value: Any) -> str:
        if value is None:
            self._absent.append(name)
            return ""
        return scalar(name, value)

    def _fields(self, raw: dict[str, Any]) -> dict[str, FieldValue]:
        fields: dict[str, FieldValue] = {}
        for name, value in raw.items():
            if name in self._not_text or not (value is None or _is_scalar(value)):
                continue
            if not 0 < len(name) <= MAX_NAME_CHARS:
                raise Refused(
                    ErrorCode.INVALID_FIELD, f"a field name has 1 to {MAX_NAME_CHARS} characters: {quote(name)}"
                )
            if value.__class__ is str and self._mapping.numbers_from_text and len(value) <= _CODE_CHARS:
                value = self._read(value, _CANONICAL)
            if isinstance(value, (str, bool)):
                fields[name] = " ".join(scalar(name, value).split())[:MAX_TEXT_CHARS]
            else:
                fields[name] = number(name, value)
        return dict(sorted(fields.items()))


def number(name: str, value: Any) -> float | None:
    """A configured number as a float that is finite in float32, or None. Raises Refused."""
    if value is None:
        return None
    if value.__class__ in _NUMBERS and -_MAX_F4 <= value <= _MAX_F4:  # bool is neither class
        return float(value)
    raise Refused(ErrorCode.INVALID_FIELD, f"{quote(name)} = {quote(value)} is not a finite number")


def scalar(name: str, value: Any) -> str:
    """A field as text: null is empty, booleans are lower case. Raises Refused for anything nested."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    raise Refused(ErrorCode.INVALID_FIELD, f"{quote(name)} = {quote(value)} is not a string, number, boolean or null")


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (str, int, float))
