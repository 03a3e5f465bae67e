"""One table of events, from its sample to what is said of it: who, when, which kind, what, how long. Pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from deploy.init.columns import Column, Table
from deploy.init.content import ContentGuess, can_be_named, guess_content, personal_names
from deploy.init.event_ids import IdGuess, guess_id
from deploy.init.kinds import KindGuess, guess_kind, is_tabular
from deploy.init.times import TimeGuess, guess_times
from deploy.init.users import UserGuess, guess_users
from deploy.init.windows import WindowGuess, guess_window

LATE_MS = 3_600_000
"""Rows that go further back than this are not in order."""
CLOSE = 0.5


class Known(NamedTuple):
    """Who and when, found. people: the user of each row, as ingest writes it."""

    user: UserGuess
    time: TimeGuess
    times: frozenset[str]
    people: list[str | None]


class Roles(NamedTuple):
    """Who and when. also: other columns that may be. times: columns that are times of any kind."""

    user: UserGuess | None
    time: TimeGuess | None
    times: frozenset[str]
    also_users: tuple[str, ...] = ()
    also_times: tuple[str, ...] = ()

    def missing(self, table: Table) -> str:
        """Why nothing can be proposed; empty = both are there."""
        names = ", ".join(list(table.columns)[:12]) or "none"
        if self.user is None:
            return f"no field is recognised as the user's id; fields: {names}"
        return "" if self.time else f"no field is recognised as the event's time; fields: {names}"


class Modality(NamedTuple):
    """One kind of event. rows: of the sample. value: what names it; None = nothing does."""

    name: str
    value: str | None
    rows: int
    tabular: bool
    content: ContentGuess
    window: WindowGuess


@dataclass(frozen=True)
class TableGuess:
    """What is proposed of one table. in_order: rows go on in time. by_user: event times, ms."""

    topic: str
    table: Table
    user: UserGuess
    time: TimeGuess
    roles: Roles
    event_id: IdGuess
    kind: KindGuess | None
    modalities: list[Modality]
    in_order: bool
    by_user: dict[str, list[int]]
    without_user: int
    blank: int
    unsure: list[str] = field(default_factory=list)

    @property
    def numbers_from_text(self) -> bool:
        """Whether any number that is read is a text."""
        reads = any(modality.content.from_text for modality in self.modalities)
        return self.time.reading.from_text or self.user.from_text or reads


def roles_of(table: Table, wall_ms: int, *, ordered: bool = True) -> Roles:
    """Who and when, by all columns. ordered: the rows lie as they were written."""
    times = guess_times(table, wall_ms, ordered=ordered)
    names = frozenset(guess.column for guess in times)
    users = guess_users(table, names)
    return Roles(
        users[0] if users else None,
        times[0] if times else None,
        names,
        tuple(guess.column for guess in users[1:] if guess.named and users[0].named),
        tuple(guess.column for guess in times[1:]),
    )


def describe(
    topic: str, table: Table, roles: Roles, name: str, *, ordered: bool = True, live: bool = False
) -> TableGuess | str:
    """What is proposed, or why nothing can be. name: of the modality, where no field tells.

    ordered: the rows lie as they were written. live: in a topic, whose partitions each have an order of their own.
    """
    user, time = roles.user, roles.time
    if user is None or time is None:
        return roles.missing(table)
    people = _ids(table.columns[user.column], integers=user.integers)
    known = Known(user, time, roles.times, people)
    unsure: list[str] = [*time.reading.unsure]
    if not user.named:
        unsure.append(f"{user.column} is the user by its values alone: nothing in its name says so")
    if roles.also_users:
        unsure.append(f"the user is {user.column}; it might be {_or(roles.also_users)}")
    if roles.also_times:
        unsure.append(f"the time is {time.column}; there are also {_and(roles.also_times)}")
    if personal_names({user.column: table.columns[user.column]}, lambda _: False):
        unsure.append(f"{user.column} looks personal: it would be the key of every message and record")
    own = {user.column, time.column}
    prefix = user.column.rpartition(".")[0]
    kind, others = guess_kind(table, own, prefix=f"{prefix}." if prefix else "")
    if others and kind:
        unsure.append(f"the kind of event is {kind.column}; it might be {_or(others)}")
    event_id = guess_id(table, user.column, time.column)
    unsure += _of_ids(event_id, user.column, time.column)
    by_user: dict[str, list[int]] = defaultdict(list)
    for who, ts in zip(people, time.times, strict=True):
        if who is not None and ts is not None:
            by_user[who].append(ts)
    if not by_user:
        return f"no row has both a user ({user.column}) and a time ({time.column})"
    modalities = [
        _modality(table, rows, known, kind, event_id, value, kind.modalities[value] if kind and value else name)
        for value, rows in _rows_of(table, kind)
    ]
    guess = TableGuess(
        topic,
        table,
        user,
        time,
        roles,
        event_id,
        kind,
        [modality for modality in modalities if modality is not None],
        live or not ordered or _in_order(time.times),
        dict(by_user),
        table.rows - table.columns[user.column].present,
        sum(column.blank for column in table.columns.values()),
        unsure,
    )
    return _without_text_numbers(guess) if _only_digits(time) and guess.numbers_from_text else guess


def _modality(
    table: Table,
    rows: list[int],
    known: Known,
    kind: KindGuess | None,
    event_id: IdGuess,
    value: str | None,
    name: str,
) -> Modality | None:
    user, time = known.user.column, known.time.column
    columns = {
        each: column if len(rows) == table.rows else column.part(rows)
        for each, column in table.columns.items()
        if can_be_named(each)
    }
    of_users: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        who, ts = known.people[row], known.time.times[row]
        if who is not None and ts is not None:
            of_users[who].append(ts)
    if not of_users:
        return None
    given = {event_id.fields} if isinstance(event_id.fields, str) else set()
    taken = {user, time, *given} | ({kind.column} if kind else set())
    first = value.strip().replace("{", "(").replace("}", ")")[:60] if value else ""
    content = guess_content(columns, roles=taken, times=known.times, first=first)
    tabular = kind is None and is_tabular(table, user) and not content.personal
    tabular = tabular and any("." not in each and each not in taken for each in columns)
    return Modality(name, value, len(rows), tabular, content, guess_window(of_users))


def _rows_of(table: Table, kind: KindGuess | None) -> list[tuple[str | None, list[int]]]:
    if kind is None:
        return [(None, list(range(table.rows)))]
    rows: dict[str, list[int]] = defaultdict(list)
    for row, value in enumerate(table.columns[kind.column].values):
        if value is not None:
            rows[str(value)].append(row)
    return [(value, rows[value]) for value in kind.modalities]


def _ids(column: Column, *, integers: bool) -> list[str | None]:
    """As ingest writes them."""

    def of(value: Any) -> str | None:
        if value is None:
            return None
        if integers:
            text = str(value).partition(".")[0] if isinstance(value, str) else str(int(value))
            return text.strip()
        return str(value)

    return [of(value) for value in column.values]


def _in_order(times: tuple[int | None, ...]) -> bool:
    newest = 0
    for ts in times:
        if ts is not None:
            if ts < newest - LATE_MS:
                return False
            newest = max(newest, ts)
    return True


def _of_ids(guess: IdGuess, user: str, time: str) -> list[str]:
    said = []
    if guess.repeated:
        said.append(
            f"{guess.repeated:,} rows are equal to an earlier one in every field: taken for the same event, sent twice"
            if guess.fields
            else f"{guess.repeated:,} rows are equal to an earlier one in every field: all count, since there is no id"
        )
    if guess.conflicting:
        said.append(f"{guess.conflicting:,} rows have the id of another event and differ from it: one counts")
    if not guess.fields:
        said.append("no fields tell events apart: sending a file twice would count its events twice")
    elif isinstance(guess.fields, tuple) and set(guess.fields) >= {user, time}:
        said.append(f"the id is made of {_and(guess.fields)}; if the producer has an id of its own, name that")
    return said


def _only_digits(time: TimeGuess) -> bool:
    pattern = time.reading.settings.get("ts_pattern", "-")
    return not any(char in pattern for char in "-/.: ,T")


def _without_text_numbers(guess: TableGuess) -> TableGuess:
    """Beside times of digits alone, texts of digits cannot be numbers as well."""
    modalities = []
    for modality in guess.modalities:
        content = modality.content
        kept = tuple(name for name in content.numbers if not guess.table.columns[name].texts)
        lost = {
            name: "numbers as text cannot be read beside times of digits"
            for name in content.numbers
            if name not in kept
        }
        content = content._replace(numbers=kept, from_text=False, left_out={**content.left_out, **lost})
        modalities.append(modality._replace(content=content))
    user = guess.user._replace(integers=guess.user.integers and not guess.user.from_text, from_text=False)
    return TableGuess(**{**vars(guess), "modalities": modalities, "user": user})


def _or(names: tuple[str, ...] | list[str]) -> str:
    return " or ".join(names[:4])


def _and(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
