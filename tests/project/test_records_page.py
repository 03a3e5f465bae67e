"""docs/records.md: its bytes are what we write, its table what they hold, and its client reads them."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from deploy.brokers.process import EmbeddedBroker
from store.records.embedding import EmbeddingRecord

PAGE = (Path(__file__).parents[2] / "docs" / "records.md").read_text(encoding="utf-8")


def example() -> EmbeddingRecord:
    vector = np.zeros(128, np.float32)
    vector[:2] = 0.6, -0.8
    times = (1782038400000, 1782038401250, 1782038401900)
    return EmbeddingRecord("anna", "churn", "tiny-3fa1", *times, vector, {"payments:2": 41}, {"payments": 7})


def test_the_bytes_of_the_page_are_ours() -> None:
    (listing,) = re.findall(r"```\n(8c .*?)```", PAGE, re.DOTALL)
    shown = b"".join(bytes.fromhex(line.split("  ")[0].replace("…", "")) for line in listing.splitlines())
    packed = example().pack()
    assert packed.startswith(shown)
    assert set(packed[len(shown) :]) == {0}
    assert f"{len(packed)} bytes" in PAGE
    assert packed.rstrip(b"\0") == shown.rstrip(b"\0")


def test_the_table_names_every_key() -> None:
    table = PAGE[PAGE.index("## The value") : PAGE.index("## One record")]
    keys = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    registered = EmbeddingRecord(*(getattr(example(), name) for name in example().__struct_fields__[:-2]), 5, 1)
    assert keys == set(msgpack.unpackb(registered.pack()))


def test_the_client_of_the_page_reads_what_is_there(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    broker = EmbeddedBroker(tmp_path / "broker.json", {"e": 2})
    try:
        producer = broker.connection.producer()
        producer.produce("e", example().pack(), b"anna", partition=1)
        producer.produce("e", None, b"anna", partition=1)
        assert producer.flush(10) == 0
        follow = names["follow"](broker.connection.bootstrap, "e", 2)
        (user, model, vector), gone = islice(follow, 2)
        follow.close()
    finally:
        broker.stop()
    assert (user, model, gone) == ("anna", "tiny-3fa1", ("anna", None, None))
    np.testing.assert_array_equal(vector, example().vector.astype(np.float16).astype(np.float32))
