"""Rows come back as they were written, whatever the format and the compression; what is cut short says so."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import os
import string
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from store.base.errors import AnchorstreamError, ConfigError, NotFoundError
from stream.replay import csv_rows, row_file
from stream.replay.byte_source import COMPRESSIONS
from stream.replay.open_files import FileOptions, Format, open_rows
from stream.replay.row_file import Row

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    ".bz2": bz2.compress,
}
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.text(string.ascii_letters, min_size=1, max_size=4)
fast = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def rows_of(path: Path, options: FileOptions | None = None) -> list[Any]:
    with open_rows(str(path), options) as file:
        first = [json.loads(row.value or b"null") for row in file]
        assert [json.loads(row.value or b"null") for row in file] == first
        return first


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(COMPRESS[path.suffix if path.suffix in COMPRESS else ""](data))
    return path


def csv_bytes(rows: list[dict[str, str]], columns: list[str], **dialect: Any) -> bytes:
    out = io.StringIO(newline="")
    # the package leaves a carriage return bare where lines end otherwise (mended in Python 3.13)
    bare = any("\r" in field for row in rows for field in row.values())
    writer = csv.writer(out, quoting=csv.QUOTE_ALL if bare else csv.QUOTE_MINIMAL, **dialect)
    writer.writerow(columns)
    writer.writerows([row[name] for name in columns] for row in rows)
    return out.getvalue().encode()


@pytest.mark.parametrize("compression", COMPRESS)
@given(rows=st.lists(st.dictionaries(names, texts, min_size=1), max_size=30), data=st.data())
@fast
def test_json_lines_come_back(
    tmp_path: Path, compression: str, rows: list[dict[str, str]], data: st.DataObject
) -> None:
    end = data.draw(st.sampled_from([b"\n", b"\r\n", b"\n\n  \n"]))
    lines = end.join(json.dumps(row).encode() for row in rows) + data.draw(st.sampled_from([b"", end]))
    assert rows_of(written(tmp_path / f"rows.jsonl{compression}", lines)) == rows


@pytest.mark.parametrize("compression", COMPRESS)
@given(data=st.data(), columns=st.lists(names, min_size=2, max_size=4, unique=True))
@fast
def test_csv_comes_back_as_texts(tmp_path: Path, compression: str, data: st.DataObject, columns: list[str]) -> None:
    """Quotes, delimiters and line breaks inside fields, a byte order mark, any delimiter."""
    rows = data.draw(st.lists(st.fixed_dictionaries(dict.fromkeys(columns, texts)), max_size=20))
    delimiter = data.draw(st.sampled_from([",", ";", "\t", "|"]))
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    mark = data.draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    text = mark + csv_bytes(rows, columns, delimiter=delimiter, lineterminator=end)
    path = written(tmp_path / f"rows.csv{compression}", text)
    assert rows_of(path, FileOptions(delimiter="tab" if delimiter == "\t" else delimiter)) == rows


_INTEGERS = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))


@pytest.mark.parametrize(
    ("compression", "codec"), [("", "none"), ("", "snappy"), (".gz", "zstd"), (".bz2", "none"), (".zst", "gzip")]
)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "n": _INTEGERS,
                "t": st.one_of(st.none(), texts),
                "b": st.booleans(),
                "f": st.floats(allow_nan=False, allow_infinity=False),
            }
        ),
        max_size=20,
    ),
    group=st.integers(1, 9),
)
@settings(fast, max_examples=15)
def test_parquet_comes_back_without_its_nulls(
    tmp_path: Path, compression: str, codec: str, rows: list[dict[str, Any]], group: int
) -> None:
    schema = pa.schema([("n", pa.int64()), ("t", pa.string()), ("b", pa.bool_()), ("f", pa.float64())])
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), out, compression=codec, row_group_size=group)
    path = written(tmp_path / f"rows.parquet{compression}", out.getvalue())
    assert rows_of(path) == [{name: value for name, value in row.items() if value is not None} for row in rows]


def test_what_parquet_holds_is_exact_in_json(tmp_path: Path) -> None:
    moment = datetime(2025, 11, 21, 10, 0, 0, 123456, UTC)
    columns = {
        "decimal": pa.array([Decimal("1234567890123456789.0100"), None]),
        "zoned": pa.array([moment, None], pa.timestamp("us", "Europe/Paris")),
        "local": pa.array([moment.replace(tzinfo=None, microsecond=0), None], pa.timestamp("s")),
        "fine": pa.array([1_763_719_200_000_000_001, None], pa.timestamp("ns", "UTC")),
        "early": pa.array([-1, None], pa.timestamp("ms", "UTC")),
        "absurd": pa.array([2**62, None], pa.timestamp("ms", "UTC")),
        "date": pa.array([date(2025, 11, 21), None]),
        "time": pa.array([time(9, 8, 7), None], pa.time64("us")),
        "span": pa.array([timedelta(seconds=3), None], pa.duration("ms")),
        "nothing": pa.array([float("nan"), None]),
        "endless": pa.array([float("inf"), None]),
        "big": pa.array([2**64 - 1, None], pa.uint64()),
        "bytes": pa.array([b"text", b"\xff\x00"]),
        "word": pa.array(["a", None]).dictionary_encode(),
        "list": pa.array([[1, None], None]),
        "struct": pa.array(
            [{"at": moment, "no": None}, None], pa.struct([("at", pa.timestamp("ms", "UTC")), ("no", pa.int32())])
        ),
        "map": pa.array([[("a", 1), ("b", None)], None], pa.map_(pa.string(), pa.int32())),
        "pairs": pa.array([[(7, "x")], None], pa.map_(pa.int32(), pa.string())),
    }
    path = tmp_path / "all.parquet"
    pq.write_table(pa.table(columns), path)
    assert rows_of(path) == [
        {
            "decimal": "1234567890123456789.0100",
            "zoned": "2025-11-21T10:00:00.123456Z",
            "local": "2025-11-21T10:00:00.000",
            "fine": "2025-11-21T10:00:00.000000001Z",
            "early": "1969-12-31T23:59:59.999Z",
            "absurd": f"{2**62} ms since 1970Z",
            "date": "2025-11-21",
            "time": "09:08:07.000",
            "span": 3000,
            "endless": "inf",
            "big": 2**64 - 1,
            "bytes": "text",
            "word": "a",
            "list": [1, None],
            "struct": {"at": "2025-11-21T10:00:00.123Z"},
            "map": {"a": 1},
            "pairs": [[7, "x"]],
        },
        {"bytes": "/wA="},
    ]


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2"])
@given(data=st.data())
@fast
def test_a_file_cut_anywhere_gives_whole_lines_and_then_an_error(
    tmp_path: Path, suffix: str, data: st.DataObject
) -> None:
    lines = [f'{{"n": {n}, "x": "{n * 7919 % 1000003:x}"}}'.encode() for n in range(data.draw(st.integers(1, 3000)))]
    parts = data.draw(st.integers(1, 3))
    members = [b"".join(line + b"\n" for line in lines[part::parts]) for part in range(parts)]
    whole = b"".join(COMPRESS[suffix](member) for member in members)
    expected = b"".join(members).splitlines()
    ends = {sum(len(COMPRESS[suffix](member)) for member in members[:n]) for n in range(1, parts)}
    cut = data.draw(st.integers(0, len(whole) - 1))
    assume(cut not in ends)  # there it is a whole file
    path = tmp_path / f"cut.jsonl{suffix}"
    path.write_bytes(whole[:cut])
    got: list[bytes | None] = []
    with open_rows(str(path)) as file:
        with pytest.raises(AnchorstreamError, match=r"after line [0-9]+, byte [0-9,]+ of") as found:
            got.extend(row.value for row in file)
        with pytest.raises(AnchorstreamError):
            file.check()
    assert found.value.code == "file_unreadable"
    assert got == expected[: len(got)]
    path.write_bytes(whole)
    with open_rows(str(path)) as file:
        file.check()
        assert [row.value for row in file] == expected


@given(
    position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), suffix=st.sampled_from([".gz", ".zst", ".bz2"])
)
@fast
def test_a_flipped_bit_is_found_before_anything_is_read(tmp_path: Path, position: float, bit: int, suffix: str) -> None:
    """B6. Where the bit means nothing (a gzip header's time) the lines are as they were."""
    lines = [f'{{"n": {n}, "x": "{n * 7919 % 1000003:x}"}}'.encode() for n in range(2000)]
    data = bytearray(COMPRESS[suffix](b"\n".join(lines) + b"\n"))
    data[int(position * len(data))] ^= 1 << bit
    path = tmp_path / f"bit.jsonl{suffix}"
    path.write_bytes(data)
    with open_rows(str(path)) as file:
        found = None
        try:
            file.check()
        except AnchorstreamError as exc:
            found = exc
        if found is None:
            assert [row.value for row in file] == lines
        else:
            assert found.code == "file_unreadable"


def test_a_parquet_file_cut_short_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.parquet"
    pq.write_table(pa.table({"a": list(range(1000))}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with open_rows(str(path)) as file, pytest.raises(AnchorstreamError, match="cannot be read") as found:
        file.check()
    assert found.value.code == "file_unreadable"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.xlsx", r"ends in \.xlsx"),
        ("a.json", r"ends in \.json"),
        ("a", "no suffix"),
        ("a.gz", "no suffix"),
        ("a.jsonl.xz", r"\.xz"),
    ],
)
def test_an_unknown_suffix_is_refused_by_name(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / name).write_bytes(b"{}\n")
    with pytest.raises(ConfigError, match=says) as found:
        open_rows(str(tmp_path / name))
    assert ".parquet" in found.value.detail
    if not name.endswith((".gz", ".xz")):
        assert rows_of(tmp_path / name, FileOptions(Format.JSONL)) == [{}]
    assert {".gz", ".zst", ".bz2"} <= COMPRESSIONS.keys()
    with pytest.raises(NotFoundError):
        open_rows(str(tmp_path / "absent.csv"))


def values(path: Path, text: bytes, options: FileOptions | None = None) -> list[Row]:
    path.write_bytes(text)
    with open_rows(str(path), options) as file:
        return list(file)


def test_csv_records_that_do_not_fit_are_named_and_the_others_read(tmp_path: Path) -> None:
    text = b'a,b\n1,2\n3\n\n"x\ny",5\n6,7,8\n"9"9,1\n10,11\n'
    found = values(tmp_path / "odd.csv", text)
    assert [(row.number, row.value, row.fault) for row in found] == [
        (2, b'{"a":"1","b":"2"}', ""),
        (3, None, "1 fields, the header has 2"),
        (5, b'{"a":"x\\ny","b":"5"}', ""),
        (7, None, "3 fields, the header has 2"),
        (8, None, "no CSV record: ',' expected after '\"'"),
        (9, b'{"a":"10","b":"11"}', ""),
    ]


def test_a_quote_that_nobody_closed_does_not_swallow_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "MAX_FIELD_CHARS", 1000)
    monkeypatch.setattr(csv_rows, "MAX_LINE_CHARS", 5000)
    rows = b"".join(b"%d,x\n" % n for n in range(1000))
    found = values(tmp_path / "quote.csv", b'a,b\n"open,x\n' + rows)
    assert "field larger" in found[0].fault
    assert found[-1].value == b'{"a":"999","b":"x"}'
    found = values(tmp_path / "end.csv", b'a,b\n1,2\n"open,x\n')
    assert (found[-1].fault, found[-1].whole) == ("no CSV record: unexpected end of data", False)
    found = values(tmp_path / "long.csv", b"a,b\n" + b"y" * 20_000 + b",1\n3,4\n")
    assert [row.value for row in found] == [None, b'{"a":"3","b":"4"}']


def test_csv_columns_and_encodings(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    assert values(path, b",a\n0,x\n")[0].value == b'{"a":"x"}'  # the index that pandas writes
    assert values(path, "a\né\n".encode("cp1252"))[0].value == b'{"a":"\\udce9"}'  # ingest refuses: invalid_utf8
    assert values(path, "a\né\n".encode("cp1252"), FileOptions(encoding="cp1252"))[0].value == '{"a":"é"}'.encode()
    assert values(path, "a\né\n".encode("utf-16"), FileOptions(encoding="utf-16"))[0].value == '{"a":"é"}'.encode()
    for text, says in ((b"a,a\n", "two columns"), ("a\né\n".encode("utf-16"), "utf-16"), (b",\n", "no column")):
        with pytest.raises(AnchorstreamError, match=says):
            values(path, text)
    for options in (FileOptions(encoding="klingon"), FileOptions(delimiter=";;")):
        with pytest.raises(ConfigError):
            values(path, b"a\n", options)


@pytest.mark.parametrize(
    ("name", "text", "whole"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": 2}', True),
        ("a.jsonl", b'{"a": 1}\n{"a": 2', False),
        ("a.jsonl", b'{"a": 1}\n[1]', False),
        ("a.jsonl", b'{"a": 1}\nword\n', True),
        ("a.csv", b"a\n1\n2\n", True),
        ("a.csv", b"a\n1\n2", False),
    ],
)
def test_a_last_line_that_may_go_on_is_not_whole(tmp_path: Path, name: str, text: bytes, whole: bool) -> None:
    found = values(tmp_path / name, text)
    assert [row.whole for row in found] == [True, whole]


def test_a_stream_is_sampled_without_waiting_for_more_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin, os.fdopen(writing, "wb", buffering=0) as producer:
        monkeypatch.setattr("sys.stdin", stdin)
        producer.write(b'{"n": 1}\n{"n": 2}\n{"n"')
        with open_rows("-") as file:
            assert [row.value for row in file.sample(1000)] == [b'{"n": 1}', b'{"n": 2}']
            producer.write(b": 3}\n")
            producer.close()
            assert [row.value for row in file] == [b'{"n": 1}', b'{"n": 2}', b'{"n": 3}']


def test_a_sample_is_bounded_and_begins_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(b'{"n": %d}\n' % n for n in range(100)))
    with open_rows(str(path)) as file:
        assert [row.number for row in file.sample(3, skip=10)] == [11, 12, 13]
        monkeypatch.setattr(row_file, "SAMPLE_BYTES", 50)
        assert len(file.sample(100)) == 7
