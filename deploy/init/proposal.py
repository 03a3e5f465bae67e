"""A configuration from what tables were found to be, each setting with its reason, and what is doubtful. Pure."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from deploy.init.document import Entry, Section, render
from deploy.init.scenarios import examples
from deploy.init.table import Modality, TableGuess
from deploy.init.windows import largest_gap
from store.base.settings import MAX_EVENTS_LIMIT
from stream.kafka.partitioner import partition_of
from stream.settings import IngestSettings, KafkaSettings

DAY_MS = 86_400_000
LEFT_SHOWN = 24
EVENT_BYTES = (2**17, 2**18, 2**19, 900_000)


class Source(NamedTuple):
    """Where a table came from. what: in words. longest: bytes of its longest row. live: a topic that is written to.
    tombstones: messages without a value."""

    what: str
    longest: int
    live: bool = False
    tombstones: int = 0


class Proposal(NamedTuple):
    """text: the TOML document. unsure: what to look at, in words."""

    text: str
    unsure: list[str]

    @property
    def config(self) -> dict[str, Any]:
        """As a table of tables."""
        return tomllib.loads(self.text)


def propose(
    tables: Sequence[tuple[TableGuess, Source]],
    wall_ms: int,
    *,
    command: str,
    given: Mapping[str, Mapping[str, Any]] | None = None,
    also_unsure: Sequence[str] = (),
    following: Sequence[str] = (),
) -> Proposal:
    """command: that was run. given: tables of settings that are known. following: commands that come next."""
    sections: list[Section] = []
    unsure = [*also_unsure]
    for name, settings in (given or {}).items():
        if settings:
            sections.append(Section((name,), [Entry(key, value) for key, value in settings.items()]))
    for guess, source in tables:
        unsure += _personal(guess)
        for modality in guess.modalities:
            sections.append(_modality(guess, modality))
            unsure += _about(guess, modality)
        sections += _mapping(guess, source)
        unsure += guess.unsure
    ingest, why = _ingest(tables, wall_ms)
    if ingest:
        sections.append(Section(("ingest",), ingest))
    unsure += why
    sections += _scenarios(tables)
    head = [f"Proposed by `{command}`, {datetime.fromtimestamp(wall_ms / 1000, UTC):%Y-%m-%d}, from:"]
    head += [f"- {source.what}" for _, source in tables]
    head += ["Change what you know better: every setting is explained in docs/configuration.md."]
    foot = ["Unsure:", *(f"- {text}" for text in unsure)] if unsure else []
    if following:
        foot += ["", "Next:", *(f"  {line}" for line in following)]
    return Proposal(render(sections, head=head, foot=foot), unsure)


def _modality(guess: TableGuess, modality: Modality) -> Section:
    window, content = modality.window, modality.content
    named = f"Events whose {guess.kind.column} is {modality.value!r}: " if guess.kind and modality.value else ""
    entries = [Entry("topic", guess.topic)]
    if modality.tabular:
        fields = max(1, min(len(guess.table.columns), MAX_EVENTS_LIMIT))
        entries += [
            Entry("kind", "tabular", "Each user has about one row: the latest value of each field is kept."),
            Entry("window_days", 3650, "What users are is not forgotten soon."),
            Entry("max_events", fields, f"Fields; the rows have {fields}."),
        ]
        return Section(("modalities", modality.name), entries, f"{modality.rows:,} rows of the sample.")
    why = "; ".join(f"{said.field}: {said.why}" for said in content.said)
    texts = f" {content.texts:,} different texts in {modality.rows:,} rows." if content.said else ""
    entries.append(Entry("text", text_of(modality), f"{why}.{texts}" if why else "No field that text is made of."))
    if content.numbers:
        entries.append(Entry("numbers", list(content.numbers), "Magnitudes stay numbers."))
    entries.append(Entry("window_days", window.days, f"The rows span {window.span_days:,.1f} days."))
    of_window = (
        f"In {window.days} days a user has {window.usual:,} of them (median), one in twenty {window.many:,} or more."
    )
    entries.append(Entry("max_events", window.max_events, of_window))
    left = [f"{name} ({reason})" for name, reason in content.left_out.items()]
    more = f" and {len(left) - LEFT_SHOWN} more" if len(left) > LEFT_SHOWN else ""
    out = f" Left out: {'; '.join(left[:LEFT_SHOWN])}{more}." if left else ""
    return Section(("modalities", modality.name), entries, f"{named}{modality.rows:,} rows of the sample.{out}")


def text_of(modality: Modality) -> str:
    """Its template; where no field is worth one, its name: an empty one would mean all fields."""
    return modality.content.template or modality.name.replace("_", " ")


def _mapping(guess: TableGuess, source: Source) -> list[Section]:
    user, time = guess.user, guess.time
    entries = [Entry("user_id", user.column, user.why + ".")]
    if user.integers:
        entries.append(Entry("user_id_integers", True, "They are integers; ids are their decimal digits."))
    if guess.without_user:
        rows = f"{guess.without_user:,} of {guess.table.rows:,} rows have no user: skipped and counted."
        entries.append(Entry("skip_without_user", True, rows))
    of = "all" if time.readable == 1 else f"{time.readable:.1%}"
    entries.append(Entry("ts", time.column, f"{time.reading.why}; {of} can be read."))
    entries += [Entry(key, value) for key, value in time.reading.settings.items() if key != "numbers_from_text"]
    fields = guess.event_id.fields
    if fields:
        entries.append(
            Entry(
                "event_id", fields if isinstance(fields, str) else list(fields), f"{guess.event_id.why}.".capitalize()
            )
        )
    if guess.kind is not None:
        kinds = ", ".join(f"{value} {rows:,}" for value, rows in guess.kind.rows.items())
        entries.append(Entry("modality", guess.kind.column, f"Says what kind of event it is: {kinds} rows."))
    if source.tombstones:
        entries.append(Entry("skip_without_value", True, f"{source.tombstones:,} messages have no value."))
    if guess.numbers_from_text:
        entries.append(Entry("numbers_from_text", True, "Numbers are written as text."))
    if guess.blank:
        entries.append(Entry("empty_is_absent", True, f"{guess.blank:,} values are empty text."))
    sections = [Section(("mapping", guess.topic), entries, _without_id(fields))]
    if guess.kind is not None:
        table = [Entry(modality.value, modality.name) for modality in guess.modalities if modality.value is not None]
        sections.append(Section(("mapping", guess.topic, "modalities"), table))
    return sections


def _without_id(fields: object) -> str:
    return "" if fields else "No event_id: where a message lies in the topic is its id."


def _ingest(tables: Sequence[tuple[TableGuess, Source]], wall_ms: int) -> tuple[list[Entry], list[str]]:
    entries: list[Entry] = []
    unsure: list[str] = []
    times = [[ts for own in guess.by_user.values() for ts in own] for guess, _ in tables]
    newest, oldest = max(map(max, times)), min(map(min, times))
    old = wall_ms - newest
    windows = [modality.window.days for guess, _ in tables for modality in guess.modalities if not modality.tabular]
    shortest = min(windows, default=3650) * DAY_MS
    live = all(source.live for _, source in tables)
    if old > DAY_MS or (not live and oldest < wall_ms - shortest):
        why = f"The newest event is of {_day(newest)}: time is the events' own. For live traffic, set wall."
        entries.append(Entry("clock", "stream", why))
        gap = max(_gap(guess) for guess, _ in tables)
        if gap > shortest // 3:
            days = math.ceil(1.5 * gap / DAY_MS)
            entries.append(
                Entry("max_ahead_days", days, f"Neighbours in one partition lie {gap / DAY_MS:,.1f} days apart.")
            )
        if oldest < wall_ms - IngestSettings().max_age_days * DAY_MS:
            days = math.ceil((wall_ms - oldest) / DAY_MS / 365) * 365 + 365
            entries.append(Entry("max_age_days", days, f"The oldest event is of {_day(oldest)}."))
    elif live and oldest < wall_ms - shortest:
        unsure.append("events older than their window are refused while the clock is the wall's")
    longest = max(source.longest for _, source in tables)
    if longest > IngestSettings().max_event_bytes:
        limit = next((size for size in EVENT_BYTES if size >= longest), EVENT_BYTES[-1])
        entries.append(Entry("max_event_bytes", limit, f"The longest row has {longest:,} bytes."))
    return entries, unsure


def _gap(guess: TableGuess) -> int:
    """The largest between neighbours in time of one partition, ms."""
    partitions: dict[int, list[int]] = {}
    for user, times in guess.by_user.items():
        partitions.setdefault(partition_of(user, KafkaSettings().partitions), []).extend(times)
    return max(map(largest_gap, partitions.values()), default=0)


def _scenarios(tables: Sequence[tuple[TableGuess, Source]]) -> list[Section]:
    names = [name for guess, _ in tables for name in guess.table.columns]
    names += [modality.name for guess, _ in tables for modality in guess.modalities]
    domain, found = examples(names, tables[0][0].user.column)
    why = f"Examples, since the names speak of {domain}: ask what you want to know. Each costs an embedding a user."
    return [
        Section(("scenarios", example.name), [Entry("query", example.query)], "" if n else why)
        for n, example in enumerate(found)
    ]


def _personal(guess: TableGuess) -> list[str]:
    found = dict.fromkeys(name for modality in guess.modalities for name in modality.content.personal)
    return [f"left out of {guess.topic} as personal: {', '.join(found)}"] if found else []


def _about(guess: TableGuess, modality: Modality) -> list[str]:
    where = f" of {modality.name}" if len(guess.modalities) > 1 else ""
    said = []
    if modality.tabular:
        said.append(f"{modality.name} is taken for what users are, not what they do: each has about one row")
    if not modality.content.said and not modality.tabular:
        said.append(f"no field{where} makes a text: it is always {text_of(modality)!r}")
    if modality.window.max_events >= MAX_EVENTS_LIMIT:
        said.append(f"users have more events{where} than a window can hold ({MAX_EVENTS_LIMIT:,}): the newest are kept")
    return said


def _day(ts: int) -> str:
    return f"{datetime.fromtimestamp(ts / 1000, UTC):%Y-%m-%d}"
