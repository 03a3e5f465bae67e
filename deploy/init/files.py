"""Files looked at: which make one table, how CSV is separated and written, who and when, and what is proposed of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import PurePath
from typing import Any, NamedTuple

from deploy.init.columns import Table, flattened
from deploy.init.proposal import Source
from deploy.init.sample import Sample, spread, whole_users
from deploy.init.table import TableGuess, describe, roles_of
from deploy.init.times import read as read_times
from deploy.init.users import in_words
from deploy.init.words import slug
from store.base.template import value_at
from stream.events.decode import decode
from stream.rejection import ErrorCode, Rejection
from stream.replay.open_files import FileOptions, Format, kind_of, open_rows
from stream.replay.row_file import STDIN, Row, RowFile

READ_TIMES = 25
"""Of a longer file only the first rows are read: this many times those that are looked at."""
SAME_COLUMNS = 0.8
"""Files that share as many of their fields are one table."""
_DELIMITERS = (";", "\t", "|")
_FALLBACK = "cp1252"
_HEAD = 200


class Look(NamedTuple):
    """How much is looked at. most: rows of a table. tick: called now and then; what it raises ends it."""

    most: int
    wall_ms: int
    tick: Callable[[], object] = lambda: None


class Looked(NamedTuple):
    """A table of one file or several of the same fields. rows: those that were looked at. options: how they are read.
    guess: None where nothing can be proposed, and `why` says why."""

    paths: list[str]
    options: FileOptions
    rows: list[Row]
    guess: TableGuess | None
    source: Source
    why: str = ""
    unsure: tuple[str, ...] = ()


class _File(NamedTuple):
    path: str
    options: FileOptions
    file: RowFile
    sample: Sample
    fields: frozenset[str]
    unsure: tuple[str, ...]


def look_at_files(
    paths: Sequence[str], options: FileOptions, look: Look, *, topic: str | None = None, taken: Sequence[str] = ()
) -> list[Looked]:
    """topic: what the raw topic is to be called; of the first table, if there are several. Raises as `open_rows`."""
    with ExitStack() as stack:
        files = [_opened(path, options, look, stack) for path in paths]
        found: list[Looked] = []
        names = {*taken}
        for group in _grouped(files):
            name = _free(topic or _topic(group[0].path), names)
            found.append(_looked_at(group, name, look))
    return _apart(found)


def events_of(rows: Sequence[Row], max_bytes: int = 16 << 20) -> list[dict[str, Any]]:
    """Those that can be read."""
    decoded = (decode(row.value, max_bytes) for row in rows if row.value is not None)
    return [event for event in decoded if not isinstance(event, Rejection)]


def _opened(path: str, options: FileOptions, look: Look, stack: ExitStack) -> _File:
    options, unsure = _how(path, options)
    file = stack.enter_context(open_rows(path, options))
    if file.repeatable:
        sample = spread(file, look.most, READ_TIMES * look.most, tick=look.tick)
    else:
        rows = file.sample(look.most)
        sample = Sample(rows, len(rows), len(rows) < look.most)
    return _File(path, options, file, sample, _fields(sample.rows), tuple(unsure))


def _how(path: str, options: FileOptions) -> tuple[FileOptions, list[str]]:
    """Delimiter and encoding of a CSV file, where they are not given."""
    unsure: list[str] = []
    if path == STDIN or kind_of(path, options.format)[0] is not Format.CSV:
        return options, unsure
    head, options, unsure = _head(path, options)
    if options.delimiter is None and head and len(names := next(iter(events_of(head[:1])), {})) <= 1:
        first = next(iter(names), "")
        found = max(_DELIMITERS, key=first.count)
        if first.count(found):
            options = options._replace(delimiter="tab" if found == "\t" else found)
            unsure.append(f"{path} is separated by {'tabulators' if found == chr(9) else repr(found)}")
    return options, unsure


def _head(path: str, options: FileOptions) -> tuple[list[Row], FileOptions, list[str]]:
    with open_rows(path, options) as file:
        rows = file.sample(_HEAD) if file.repeatable else []
    codes = [found.code for row in rows if row.value and isinstance(found := decode(row.value, 1 << 24), Rejection)]
    if ErrorCode.INVALID_UTF8 in codes and options.encoding == FileOptions().encoding:
        return rows, options._replace(encoding=_FALLBACK), [f"{path} is not UTF-8: read as {_FALLBACK}"]
    return rows, options, []


def _fields(rows: Sequence[Row]) -> frozenset[str]:
    events = events_of(rows[:_HEAD])
    return frozenset(chain.from_iterable(map(flattened, events)))


def _grouped(files: Sequence[_File]) -> list[list[_File]]:
    groups: list[list[_File]] = []
    for file in files:
        for group in groups:
            first = group[0]
            shared, either = len(first.fields & file.fields), len(first.fields | file.fields)
            if first.options == file.options and either and shared >= SAME_COLUMNS * either:
                group.append(file)
                break
        else:
            groups.append([file])
    return groups


def _looked_at(group: Sequence[_File], topic: str, look: Look) -> Looked:
    rows = [row for file in group for row in file.sample.rows]
    table = Table(events_of(rows))
    roles = roles_of(table, look.wall_ms)
    read_rows, whole, note = sum(file.sample.read for file in group), all(file.sample.whole for file in group), ""
    if not whole and roles.user and roles.time and all(file.file.repeatable for file in group):
        count = look.most
        of_users = whole_users(_all_rows(group), _user_of(roles.user.column), count, READ_TIMES * count, tick=look.tick)
        fuller = Table(events_of(of_users.rows))
        if {roles.user.column, roles.time.column} <= fuller.names:
            rows, table, note = of_users.rows, fuller, f", every row of one user in {of_users.every:,.0f}"
            times = read_times(table.columns[roles.time.column], roles.time.reading)
            user = roles.user._replace(why=in_words(table.columns[roles.user.column]))
            roles = roles._replace(user=user, time=roles.time._replace(times=times))
    paths = [file.path for file in group]
    where = f"{', '.join(paths)}: {len(rows):,} of {read_rows:,} rows{'' if whole else ' read'}{note}"
    longest = max((len(row.value or b"") for row in rows), default=0)
    source, unsure = Source(where, longest), tuple(text for file in group for text in file.unsure)
    several = len(group) > 1
    guess = describe(topic, table, roles, slug(topic, fallback="event"), ordered=not several)
    if isinstance(guess, str):
        return Looked(paths, group[0].options, rows, None, source, guess, unsure)
    return Looked(paths, group[0].options, rows, guess, source, "", unsure)


def _apart(found: list[Looked]) -> list[Looked]:
    """No two modalities of the same name."""
    names = Counter(modality.name for looked in found if looked.guess for modality in looked.guess.modalities)
    apart = []
    for looked in found:
        if (guess := looked.guess) is not None:
            prefix = slug(guess.topic, fallback="event", most=20)
            modalities = [
                each if names[each.name] == 1 else each._replace(name=f"{prefix}_{each.name}")
                for each in guess.modalities
            ]
            looked = looked._replace(guess=replace(guess, modalities=modalities))
        apart.append(looked)
    return apart


def _all_rows(group: Sequence[_File]) -> Iterator[Row]:
    for file in group:
        yield from file.file


def _user_of(field: str) -> Callable[[Row], str | None]:
    def of(row: Row) -> str | None:
        if row.value is None:
            return None
        try:
            event = json.loads(row.value)
        except (ValueError, RecursionError):
            return None
        value = value_at(event, field) if isinstance(event, dict) else None
        return str(value) if isinstance(value, (str, int, float)) else None

    return of


def _topic(path: str) -> str:
    """From the file's name, without suffixes and dates."""
    stem = "events" if path == STDIN else PurePath(path).name.split(".")[0]
    stem = re.sub(r"[^a-zA-Z0-9_-]+", "_", re.sub(r"[-_ ]*[0-9][0-9_-]*$", "", stem)).strip("_-")
    return stem[:100] or "events"


def _free(name: str, names: set[str]) -> str:
    found, number = name, 2
    while found in names:
        found, number = f"{name}_{number}", number + 1
    names.add(found)
    return found
