"""What of an event becomes its text and its numbers, and what is left out, and why. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from deploy.init.columns import Column
from deploy.init.words import (
    CALENDAR,
    FREE_TEXT,
    IDENTIFIER,
    NAME_OF_PERSON,
    PERSON,
    PERSONAL,
    SAID_IN_WORDS,
    words,
    words_of_path,
)
from store.base.template import Template

MAX_NUMBERS = 16
MAX_TEXTS = 6
FEW = 50
"""Codes and ids with no more different values are kinds."""
CODES_FROM = 1e8
"""Integers that are all as large are no magnitudes."""
RARE = 0.01
"""Of the rows of a modality."""
NEARLY_ALWAYS = 0.9
"""A value that is the only one, and in so many rows, tells nothing; in fewer, that it is there does."""
NEW_TEXTS = 0.5
"""A field is left out that makes more than this share of the rows' texts different, where there are many: each new text
costs an encoding."""
MANY_TEXTS = 1000
PROSE_WORDS = 8
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_PHONE = re.compile(r"\+[0-9][0-9 ()/.-]{7,18}|\(?0[0-9]{1,4}\)?[ /-][0-9][0-9 /-]{4,14}")
_IP = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}|(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{0,4}", re.IGNORECASE)
_HEX = re.compile(r"[0-9a-f-]{16,}", re.IGNORECASE)
_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}")
_CODES = frozenset({"zip", "postal", "postcode", "plz"})
_BY_VALUES = (("e-mail addresses", _EMAIL), ("telephone numbers", _PHONE), ("network addresses", _IP), ("IBANs", _IBAN))


class Said(NamedTuple):
    """One field of a template. label: what stands before it."""

    field: str
    label: str
    why: str


class ContentGuess(NamedTuple):
    """Of one modality. left_out: field → why. texts: different texts among the rows. from_text: numbers are texts."""

    template: str
    said: tuple[Said, ...]
    numbers: tuple[str, ...]
    left_out: Mapping[str, str]
    personal: tuple[str, ...]
    texts: int
    from_text: bool


def guess_content(
    columns: Mapping[str, Column], *, roles: Collection[str], times: Collection[str], first: str = ""
) -> ContentGuess:
    """columns: rows of the modality only. roles: fields that are user, time, modality. times: fields that are times.
    first: what each text begins with."""
    left: dict[str, str] = {}
    personal: list[str] = []
    texts: list[Column] = []
    numbers: list[Column] = []
    codes: list[Column] = []
    for name, column in columns.items():
        if name in roles or not column.present:
            continue
        if name in times:
            left[name] = "a time"
        elif (what := personal_kind(column)) is not None:
            left[name] = what
            personal.append(name)
        elif (why := _unusable(column)) is not None:
            left[name] = why
        elif column.are_numbers and not _is_code(column):
            numbers.append(column)
        elif (why := _useless_text(column)) is None:
            texts.append(column)
        else:
            left[name] = why
            if why.startswith("codes"):
                codes.append(column)
    numbers.sort(key=lambda column: -round(column.share, 1))
    for column in numbers[MAX_NUMBERS:]:
        left[column.name] = f"more than {MAX_NUMBERS} numbers"
    if not texts and not numbers and not first:
        texts = codes[:1]  # better than nothing
        left = {name: why for name, why in left.items() if name not in {column.name for column in texts}}
    chosen, distinct = _chosen(texts, left)
    said = tuple(_said(column) for column in chosen)
    return ContentGuess(
        _template(first, said),
        said,
        tuple(column.name for column in numbers[:MAX_NUMBERS]),
        left,
        tuple(personal),
        distinct,
        any(column.texts for column in numbers[:MAX_NUMBERS]),
    )


def personal_kind(column: Column) -> str | None:
    """What it tells of a person: by its name, or by its values. None: nothing."""
    own, whole = words(column.name.split(".")[-1]), words_of_path(column.name)
    if own[-1:] == ["name"] and any(word in PERSON | NAME_OF_PERSON for word in whole[:-1]):
        return "personal by its name"
    if any(word in PERSONAL for word in own) and not column.booleans:
        return "personal by its name"
    if column.texts and column.texts == column.present:
        sample = column.texts_found[:300]
        for what, form in _BY_VALUES:
            if sum(form.fullmatch(text.strip()) is not None for text in sample) > 0.3 * len(sample):
                return f"{what}, personal"
    return None


def _unusable(column: Column) -> str | None:
    if column.nested:
        return "lists or maps" if column.nested == column.present else "lists or maps in some rows"
    if column.share < RARE:
        return f"in {column.present:,} of {column.rows:,} rows only"
    if column.are_whole and not CALENDAR.isdisjoint(words(column.name)[-1:]):
        return "a part of the time"
    if column.distinct == 1 and column.share >= NEARLY_ALWAYS and column.rows > 1:
        where = "" if column.present == column.rows else f", where it is at all ({column.share:.1%} of the rows)"
        return f"always {str(column.found[0])[:40]!r}{where}"
    return None


def _is_code(column: Column) -> bool:
    own = words(column.name.split(".")[-1])
    if bool(own) and own[-1] in IDENTIFIER | _CODES:
        return True
    return column.are_whole and column.distinct > FEW and min(map(abs, column.numbers)) >= CODES_FROM


def _useless_text(column: Column) -> str | None:
    own = words(column.name.split(".")[-1])
    if any(word in FREE_TEXT for word in own) and column.distinct > FEW:
        return "free text, which may be personal"
    if column.distinct <= FEW:
        return None
    sample = column.texts_found[:500]
    coded = sum(_looks_coded(text) for text in sample)
    if _is_code(column) or not sample or coded > 0.8 * len(sample):
        return f"codes or ids: {column.distinct:,} different"
    if any(word in SAID_IN_WORDS for word in own):
        return None
    prose = sum(text.count(" ") + 1 for text in sample) / len(sample)
    if column.distinct > NEW_TEXTS * column.present and column.distinct > FEW:
        what = "free text" if prose > PROSE_WORDS / 2 else "nearly each row has another"
        return f"{what}, which may be personal: {column.distinct:,} different in {column.present:,} rows"
    return "free text, which may be personal" if prose > PROSE_WORDS else None


def _looks_coded(text: str) -> bool:
    return _HEX.fullmatch(text) is not None or (
        " " not in text and any(char.isdigit() for char in text) and len(text) > 3
    )


def _chosen(texts: list[Column], left: dict[str, str]) -> tuple[list[Column], int]:
    """Those that say most with fewest new texts, in the order of the rows' fields; and how many texts they make."""
    rows = texts[0].rows if texts else 0
    order = sorted(texts, key=lambda column: (not _says_most(column), -column.share, column.distinct))
    groups, distinct = [0] * rows, 1 if rows else 0
    chosen: list[Column] = []
    for column in order:
        numbers: dict[tuple[int, object], int] = {}
        split = [numbers.setdefault(pair, len(numbers)) for pair in zip(groups, column.values, strict=True)]
        if len(chosen) == MAX_TEXTS:
            left[column.name] = f"{MAX_TEXTS} fields are in the text already"
        elif chosen and len(numbers) > max(MANY_TEXTS, NEW_TEXTS * rows):
            left[column.name] = f"with it nearly every text would be new ({len(numbers):,} of {rows:,})"
        else:
            chosen.append(column)
            groups, distinct = split, len(numbers)
    return [column for column in texts if column in chosen], distinct


def _says_most(column: Column) -> bool:
    return any(word in SAID_IN_WORDS for word in words(column.name.split(".")[-1]))


def _said(column: Column) -> Said:
    bare = bool(column.texts) and not column.are_numbers and column.mean_chars > 2
    label = "" if bare else " ".join(words(column.name.split(".")[-1]))
    share = "" if column.present == column.rows else f", in {column.share:.1%} of the rows"
    return Said(column.name, label, f"{column.distinct:,} different{share}")


def _template(first: str, said: tuple[Said, ...]) -> str:
    parts = [f"{part.label} {{{part.field}}}".strip() for part in said]
    return " ".join([part for part in (f"{first}:" if first and parts else first, ", ".join(parts)) if part])


def can_be_named(name: str) -> bool:
    """Whether a template can name the field."""
    try:
        return Template(f"{{{name}}}").fields == (name,)
    except ValueError:
        return False


def personal_names(columns: Mapping[str, Column], is_role: Callable[[str], bool]) -> list[str]:
    """Those that tell of a person, but for roles."""
    return [name for name, column in columns.items() if not is_role(name) and personal_kind(column)]
