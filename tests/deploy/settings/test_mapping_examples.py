"""The examples of docs/producers.md: a configuration, messages, and what they become; replay sends them there too."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from deploy.run.child_settings import write_child_settings
from deploy.settings.config import load
from stream.clock import EventClock
from stream.events.event import Event
from stream.events.validate import Validator
from stream.rejection import Rejection, Skipped
from stream.replay.open_files import open_rows
from stream.replay.replay import Router

PAGE = (Path(__file__).parents[3] / "docs" / "producers.md").read_text(encoding="utf-8")
NOW = 1_763_720_000_000
EXAMPLES = {
    title: blocks
    for title, text in re.findall(r"^### (.+?)\n(.*?)(?=^### |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    if (blocks := re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
}


def said(verdict: Event | Rejection | Skipped) -> str:
    if isinstance(verdict, Skipped):
        return f"skipped: {verdict.reason}"
    if isinstance(verdict, Rejection):
        return f"refused: {verdict.code}, {verdict.detail}"
    at = datetime.fromtimestamp(verdict.ts / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    numbers = ", ".join("none" if n is None else f"{n:g}" for n in verdict.numbers)
    shown = f" ({numbers})" if verdict.numbers else ""
    return f"{verdict.modality} of {verdict.user_id} at {at}, id {verdict.event_id}: {verdict.text!r}{shown}"


def test_there_are_four_examples() -> None:
    assert len(EXAMPLES) == 4
    assert all([kind for kind, _ in blocks][:3] == ["toml", "json", ""] for blocks in EXAMPLES.values())


def verdicts(toml: str, messages: Iterable[bytes], folder: Path) -> list[str]:
    """Of messages under a configuration; replay sends each there, with the user as its key."""
    file = folder / "example.toml"
    file.write_text(toml, encoding="utf-8")
    settings = load(file)
    (topic,) = settings.mapping
    clock = EventClock.of(settings.ingest, settings.modalities, lenient=True)
    rules = Validator(settings.modalities, settings.ingest, clock, mapping=settings.mapping)
    router = Router(settings.modalities, "dead", settings.mapping)
    found = []
    for offset, line in enumerate(messages):
        verdict = rules.validate(line, topic, 0, offset, NOW, NOW)
        found.append(said(verdict))
        sent = router.route(line)
        if isinstance(verdict, Event):
            assert (sent.topic, sent.key, sent.ts) == (topic, verdict.user_id.encode(), verdict.ts)
    return found


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_becomes_what_the_page_says(title: str, tmp_path: Path) -> None:
    (_, toml), (_, messages), (_, expected) = EXAMPLES[title][:3]
    assert verdicts(toml, messages.encode().splitlines(), tmp_path) == expected.splitlines()


@pytest.mark.parametrize("title", EXAMPLES)
def test_a_role_that_is_started_gets_the_same_mapping(title: str, tmp_path: Path) -> None:
    (tmp_path / "example.toml").write_text(EXAMPLES[title][0][1], encoding="utf-8")
    settings = load(tmp_path / "example.toml")
    write_child_settings(settings, tmp_path / "child.toml")
    assert load(tmp_path / "child.toml") == settings


@pytest.mark.parametrize("title", [title for title in EXAMPLES if "seconds" in title or "invoices" in title])
def test_a_table_as_a_file_becomes_the_same(title: str, tmp_path: Path) -> None:
    """CSV, where all is text and nothing is empty, and Parquet, of which a column has one type."""
    (_, toml), (_, messages), (_, expected) = EXAMPLES[title][:3]
    rows = [json.loads(line) for line in messages.splitlines()]
    with (tmp_path / "table.csv").open("w", newline="") as out:
        table = csv.DictWriter(out, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    texts = f"{toml.split('[ingest]')[0]}numbers_from_text = true\nempty_is_absent = true\n"
    of_texts = "\n".join(dict.fromkeys(texts.splitlines())) + '\n[ingest]\nclock = "stream"\n'
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    same = {
        name: values if len({type(value) for value in values if value is not None}) == 1 else [*map(str, values)]
        for name, values in columns.items()
    }
    parquet.write_table(pyarrow.table(same), tmp_path / "table.parquet")
    for file in ("table.csv", "table.parquet"):
        with open_rows(str(tmp_path / file)) as found:
            assert verdicts(of_texts, [row.value or b"" for row in found], tmp_path) == expected.splitlines(), file
