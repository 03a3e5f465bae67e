"""`anchorstream embed` against the HTTP service itself; who answers is played."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy import cli
from store.http.app import create_app
from store.http.wire.server import Serve
from store.records.embed_messages import SCENARIO, EmbedReply
from store.records.embedding import EmbeddingRecord
from tests.support.embedder import Asked, Embedder
from tests.support.serving import Serving

QUERY = "Is a baby on the way?"


class Idle:
    """A tail with nothing to read."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.ready.set()

    def run(self, stop: threading.Event) -> None:
        stop.wait()


@pytest.fixture
def embedder() -> Embedder:
    record = EmbeddingRecord("anna", SCENARIO, "tiny-1", 1, 2, 3, np.eye(1, 128, dtype=np.float32)[0], {"raw:0": 7})
    return Embedder(lambda: EmbedReply("id", record))


@pytest.fixture
def url(embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANCHORSTREAM_SERVE__READ_TOKEN", "sesame")
    app = create_app(replace(Serving(read_token="sesame").service, embedder=embedder))
    up, stop = threading.Event(), threading.Event()
    serve = Serve(app, Idle(), host="127.0.0.1", port=0, on_ready=lambda _: up.set())
    thread = threading.Thread(target=serve.run, args=(stop,))
    thread.start()
    assert up.wait(30)
    yield serve.url
    stop.set()
    thread.join(30)
    assert not thread.is_alive()


def test_the_record_for_people(url: str, embedder: Embedder, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["embed", "anna", "--query", QUERY, "--prompt", "tuned", "--timeout", "1.5", "--url", url]
    assert cli.run(words) == 0
    printed = capsys.readouterr()
    assert embedder.asked == [Asked("anna", QUERY, "tuned", 1500)]
    for shown in (QUERY, "anna", "tiny-1", "raw:0:7", "vector (128)"):
        assert shown in printed.out
    assert "not comparable" in printed.err


def test_the_record_for_machines(url: str, embedder: Embedder, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["embed", "anna", "--query", QUERY, "--url", url, "--json"]) == 0
    printed = capsys.readouterr()
    body = json.loads(printed.out)
    assert (body["user_id"], body["query"], body["prompt"], len(body["vector"])) == ("anna", QUERY, None, 128)
    assert printed.err == ""
    assert embedder.asked == [Asked("anna", QUERY, None, 5000)]


@pytest.mark.parametrize("code", ["user_unknown", "busy", "embed_timeout"])
def test_a_refusal_is_an_error_with_the_code(
    url: str, embedder: Embedder, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    embedder.answer = lambda: EmbedReply("id", None, code, "because")
    assert cli.run(["embed", "anna", "--query", QUERY, "--url", url]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error [{code}]: because")


@pytest.mark.parametrize(
    "words", [["embed", "anna"], ["embed", "--query", QUERY], ["embed", "anna", "--query", QUERY, "--timeout", "61"]]
)
def test_a_wrong_command_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(words) == 2
    assert "error [usage]" in capsys.readouterr().err
