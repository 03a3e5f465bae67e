"""No data makes `init` fail in a way that is not foreseen; what it proposes loads, and judges every row."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.init.files import Look, look_at_files
from deploy.init.proposal import propose
from deploy.init.trial import try_out
from deploy.settings.config import load
from store.base.errors import AnchorstreamError
from stream.replay.open_files import FileOptions

WALL = 1_764_500_000_000
names = st.sampled_from(
    [
        *("user_id", "userId", "customer.id", "id", "ts", "date", "created_at", "event", "type", "amount", "email"),
        *("properties", "a b", "x:y", "{q}", "0", "ключ", "text", "modality", "event_id", "item", "payload.user"),
    ]
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.integers(1_600_000_000, 1_700_000_000),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12),
    st.sampled_from(
        ["u1", "u2", "u3", "", " ", "2023-11-14", "2023-11-14T22:13:20Z", "14/11/2023 10:00", "007", "1.0"]
    ),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=6
)
events = st.lists(st.dictionaries(names, values, max_size=7), min_size=1, max_size=30)


def looked_at(name: str, content: bytes, most: int = 10_000) -> bool:
    """Whether anything was proposed."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            found = look_at_files([str(path)], FileOptions(), Look(most, WALL))
        except AnchorstreamError:
            return False
        tables = [(looked.guess, looked.source) for looked in found if looked.guess is not None]
        if not tables:
            assert all(looked.why for looked in found)
            return False
        proposal = propose(tables, WALL, command="anchorstream init")
        trial = try_out(load(None, overrides=proposal.config), found, WALL)
        assert trial.rows == sum(len(looked.rows) for looked in found)
        judged = trial.accepted.total() + trial.skipped.total() + sum(of.rows for of in trial.refused.values())
        assert judged == trial.rows
        return True


@given(events)
@settings(max_examples=150)
def test_any_json(rows: list[dict[str, Any]]) -> None:
    looked_at("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


@given(
    st.lists(st.lists(st.text(max_size=8), min_size=3, max_size=3), min_size=1, max_size=20), st.sampled_from(",;\t")
)
@settings(max_examples=80)
def test_any_table(rows: list[list[str]], delimiter: str) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([["user_id", "ts", "what"], *rows])
    looked_at("a.csv", text.getvalue().encode(errors="surrogatepass"))


@given(st.binary(max_size=300), st.sampled_from(["a.jsonl", "a.csv", "a.parquet", "a.csv.gz"]))
@settings(max_examples=80)
def test_any_bytes(content: bytes, name: str) -> None:
    looked_at(name, content)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "user_id": st.sampled_from(["u1", "u2", "u3"]),
                "ts": st.integers(1_500_000_000, 1_700_000_000),
                "what": scalars,
                "event": st.sampled_from(["a", "B b", "ü"]),
            },
            optional={"properties": st.dictionaries(names, scalars, max_size=3)},
        ),
        min_size=1,
        max_size=40,
    ),
    st.integers(2, 20),
)
@settings(max_examples=100)
def test_what_has_a_user_and_a_time_is_recognised(rows: list[dict[str, Any]], most: int) -> None:
    """Also where only some of the rows are looked at."""
    assert looked_at("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode(), most)
