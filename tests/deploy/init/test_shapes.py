"""`anchorstream init` on data of other shapes: what it proposes loads, accepts the rows, and means what they mean."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from deploy.cli import run
from deploy.settings.config import Settings, load
from stream.clock import EventClock
from stream.events.event import Event
from stream.events.validate import Validator
from stream.rejection import Skipped
from stream.replay.open_files import open_rows
from tests.support.shapes import EVENTS, FROM_S, segment_events, visits, write_csv, write_segment

RETAIL = [folder / "shared" / "data" / "online_retail" / "online_retail.parquet" for folder in Path(__file__).parents]
FILE = next((file for file in RETAIL if file.exists()), None)
NOW = 1_795_000_000_000


def init(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert run(["init", *map(str, words), "--json"]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def judged(settings: Settings, path: Path, topic: str, every: int = 1) -> list[tuple[dict[str, Any], object]]:
    """Rows of a file, and what ingest makes of them on that topic."""
    clock = EventClock.of(settings.ingest, settings.modalities, lenient=True)
    rules = Validator(settings.modalities, settings.ingest, clock, mapping=settings.mapping)
    with open_rows(str(path)) as file:
        rows = [row.value for row in islice(file, 0, None, every)]
    return [(json.loads(row or b""), rules.validate(row, topic, 0, n, NOW, NOW)) for n, row in enumerate(rows)]


def test_nested_events_of_several_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events, path, target = segment_events(), tmp_path / "track.jsonl", tmp_path / "a.toml"
    write_segment(path, events)
    found = init(capsys, path, "--output", target)
    settings = load(target)
    verdicts = judged(settings, path, "track")
    accepted = [(row, verdict) for row, verdict in verdicts if isinstance(verdict, Event)]
    assert len(accepted) == sum("userId" in event for event in events)
    assert all(isinstance(verdict, Skipped) for row, verdict in verdicts if "userId" not in row)
    names = settings.mapping["track"].modalities
    assert set(names) == set(EVENTS)
    for row, event in accepted:
        assert event.user_id == row["userId"]
        assert event.ts == int(datetime.fromisoformat(row["timestamp"]).timestamp() * 1000)
        assert event.event_id == row["messageId"]
        assert event.modality == names[row["event"]]
        assert row["event"] in event.text
        assert row["context"]["device"]["type"] in event.text
        assert "person" not in event.text, "personal fields are left out"
        if row["event"] == "Order Completed":
            assert event.numbers == (row["properties"]["total"],)
    assert found["trial"]["accepted"] == dict(Counter(event.modality for _, event in accepted))
    assert any("context.traits.email" in text for text in found["unsure"])
    assert settings.ingest.clock == "stream"


def test_a_table_of_seconds_with_integer_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, path, target = visits(), tmp_path / "visits.csv", tmp_path / "v.toml"
    write_csv(path, rows)
    found = init(capsys, path, "--output", target)
    settings = load(target)
    verdicts = judged(settings, path, "visits")
    accepted = [(row, verdict) for row, verdict in verdicts if isinstance(verdict, Event)]
    assert len(accepted) == len(rows)
    for row, event in accepted:
        assert event.user_id == row["customer_no"]
        assert event.ts == int(row["visited_at"]) * 1000
        assert event.modality == "visits"
        assert row["store"] in event.text
        assert row["reason"] in event.text
        assert event.numbers == (float(row["minutes"]) if row["minutes"] else None,)
        assert row["phone"] not in event.text
    assert len({event.event_id for _, event in accepted}) == len(rows) - 2, "what comes twice is one event"
    assert any(text.startswith("2 rows are equal") for text in found["unsure"])
    assert found["trial"]["rows"] == len(rows)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(FILE is None, reason="the data set is not here: shared/data/online_retail/")
def test_online_retail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "retail.toml"
    found = init(capsys, FILE, "--output", target)
    settings = load(target)
    mapping = settings.mapping["online_retail"]
    assert (mapping.user_id, mapping.user_id_integers, mapping.skip_without_user) == ("CustomerID", True, True)
    assert (mapping.ts, mapping.ts_unit) == ("InvoiceDate", "s")
    assert {"CustomerID", "InvoiceDate", "InvoiceNo", "StockCode"} <= set(mapping.event_id)
    modality = settings.modalities["online_retail"]
    assert "{Description}" in modality.text
    assert modality.numbers == ("Quantity", "UnitPrice")
    trial = found["trial"]
    assert trial["refused"] == {}
    assert trial["accepted"]["online_retail"] > 5000
    assert trial["rows"] == sum(trial["accepted"].values()) + trial["skipped"]["without_user"]
    assert any("local times" in text for text in found["unsure"])
    verdicts = judged(settings, Path(str(FILE)), "online_retail", every=7)
    for row, verdict in verdicts:
        assert isinstance(verdict, Event) is ("CustomerID" in row), (row, verdict)
        if isinstance(verdict, Event):
            assert verdict.user_id == str(int(row["CustomerID"]))
            assert verdict.ts == row["InvoiceDate"] * 1000
    ids = Counter(verdict.event_id for _, verdict in verdicts if isinstance(verdict, Event))
    lines = {tuple(row[name] for name in sorted(row)) for row, verdict in verdicts if isinstance(verdict, Event)}
    assert len(ids) == len(lines), "as many ids as different lines"


def test_semicolons_and_latin_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a spreadsheet writes is read without options, and the next commands have them."""
    rows = [row | {"store": "süd"} if n % 3 else row for n, row in enumerate(visits(rows=300))]
    path, target = tmp_path / "visits.csv", tmp_path / "v.toml"
    write_csv(tmp_path / "utf8.csv", rows, delimiter=";")
    path.write_bytes((tmp_path / "utf8.csv").read_text().encode("latin-1"))
    found = init(capsys, path, "--output", target)
    assert found["trial"]["accepted"] == {"visits": len(rows)}
    replay = next(command for command in found["next"] if " replay " in command)
    assert "--delimiter ';'" in replay
    assert "--encoding cp1252" in replay
    assert "--topic visits" in replay


def test_several_files_are_several_tables_or_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = visits()
    write_csv(tmp_path / "visits_2023.csv", rows[:1500])
    write_csv(tmp_path / "visits_2024.csv", rows[1500:])
    write_segment(tmp_path / "track.jsonl", segment_events())
    found = init(capsys, *sorted(tmp_path.glob("*.*")), "--output", tmp_path / "a.toml")
    config = found["config"]
    assert set(config["mapping"]) == {"visits", "track"}
    assert {table["topic"] for table in config["modalities"].values()} == {"visits", "track"}
    assert found["trial"]["accepted"]["visits"] == len(rows)
    assert found["trial"]["refused"] == {}
    replays = [command for command in found["next"] if " replay " in command]
    assert len(replays) == 2
    assert any("--sort" in command and "visits_2023" in command and "visits_2024" in command for command in replays)


def test_what_users_are_is_tabular(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"member_id": f"m{n}", "since": FROM_S + n, "plan": "ab"[n % 2], "age": 20 + n % 50} for n in range(200)]
    path = tmp_path / "members.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = init(capsys, path, "--output", tmp_path / "m.toml")
    assert found["config"]["modalities"]["members"]["kind"] == "tabular"
    assert found["trial"]["accepted"] == {"members": 200}


def test_what_users_are_is_no_table_of_fields_where_some_are_personal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tabular modality keeps every field; so it is proposed as the newest event of each."""
    rows = [{"member_id": f"m{n}", "ts": FROM_S + n, "plan": "ab"[n % 2], "email": f"m{n}@x.org"} for n in range(200)]
    path = tmp_path / "members.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = init(capsys, path, "--output", tmp_path / "m.toml")
    table = found["config"]["modalities"]["members"]
    assert "kind" not in table
    assert table["max_events"] == 1
    assert "email" not in table["text"]


def test_nothing_recognised_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text('{"colour": "red"}\n{"colour": "blue"}\n')
    assert run(["init", str(tmp_path / "a.jsonl"), "--output", str(tmp_path / "a.toml")]) == 1
    assert "not_recognised" in capsys.readouterr().err
    assert not (tmp_path / "a.toml").exists()


def test_a_file_that_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(tmp_path / "visits.csv", visits(rows=100))
    target = tmp_path / "mine.toml"
    target.write_text("# mine\n")
    words = ["init", str(tmp_path / "visits.csv"), "--output", str(target)]
    assert run(words) == 2
    assert target.read_text() == "# mine\n"
    assert run([*words, "--force"]) == 0
    assert tomllib.loads(target.read_text())["mapping"]["visits"]
    assert "anchorstream doctor" in capsys.readouterr().out


def test_nothing_accepted_is_said_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All in the future: recognised, and refused by ingest."""
    rows = [{"user_id": f"u{n % 9}", "ts": 2_200_000_000 + n, "page": "home"} for n in range(90)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(["init", str(tmp_path / "a.jsonl"), "--output", str(tmp_path / "a.toml")]) == 1
    said = capsys.readouterr()
    assert "ts_in_future" in said.out
    assert "nothing would be accepted" in said.err


def test_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(tmp_path / "visits.csv", visits(rows=100))
    assert run(["init", str(tmp_path / "visits.csv"), "--output", "-"]) == 0
    said = capsys.readouterr()
    assert tomllib.loads(said.out)["mapping"]["visits"]["user_id"] == "customer_no"
    assert "would be accepted" in said.err
