"""The examples of docs/producers.md: a configuration, messages, and what they become; replay sends them there too."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deploy.settings.config import Settings, load
from stream.clock import EventClock
from stream.events.event import Event
from stream.events.validate import Validator
from stream.rejection import Rejection, Skipped
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
    assert all([kind for kind, _ in blocks] == ["toml", "json", ""] for blocks in EXAMPLES.values())


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_becomes_what_the_page_says(title: str, tmp_path: Path) -> None:
    (_, toml), (_, messages), (_, expected) = EXAMPLES[title]
    file = tmp_path / "example.toml"
    file.write_text(toml, encoding="utf-8")
    settings: Settings = load(file)
    (topic,) = settings.mapping
    clock = EventClock.of(settings.ingest, settings.modalities, lenient=True)
    rules = Validator(settings.modalities, settings.ingest, clock, mapping=settings.mapping)
    router = Router(settings.modalities, "dead", settings.mapping)
    found = []
    for offset, line in enumerate(messages.encode().splitlines()):
        verdict = rules.validate(line, topic, 0, offset, NOW, NOW)
        found.append(said(verdict))
        sent = router.route(line)
        if isinstance(verdict, Event):
            assert (sent.topic, sent.key, sent.ts) == (topic, verdict.user_id.encode(), verdict.ts)
    assert found == expected.splitlines()
