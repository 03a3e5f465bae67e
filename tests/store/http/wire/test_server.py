"""The serve role's shell: HTTP and tail live and die together."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from store.base.errors import AnchorstreamError, DataLossError
from store.http.wire.server import Serve
from tests.support.serving import Serving


class FakeTail:
    """Ready after a while; then waits for `stop`, or for `fail`."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.fail = threading.Event()
        self.leave = threading.Event()
        self.stopped = False

    def run(self, stop: threading.Event) -> None:
        self.ready.set()
        while not stop.wait(0.01):
            if self.fail.is_set():
                raise DataLossError("gone", action="replay")
            if self.leave.is_set():
                return
        self.stopped = True


def started(
    tail: FakeTail, serving: Serving | None = None, **options: Any
) -> tuple[Serve, threading.Event, list[BaseException], threading.Thread, list[str]]:
    urls: list[str] = []
    serve = Serve((serving or Serving()).app, tail, host="127.0.0.1", port=0, on_ready=urls.append, **options)
    stop = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            serve.run(stop)
        except Exception as exc:
            failures.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    _until(lambda: bool(urls))
    return serve, stop, failures, thread, urls


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_url_is_known_first_and_answers_once_ready() -> None:
    tail = FakeTail()
    serve, stop, failures, thread, urls = started(tail)
    assert urls == [serve.url]
    assert httpx.get(f"{serve.url}/readyz").json() == {"status": "ok", "warnings": []}
    began = time.monotonic()
    stop.set()
    thread.join(60)
    assert time.monotonic() - began < 30
    assert not failures
    assert tail.stopped
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{serve.url}/livez")


@pytest.mark.parametrize(("what", "error"), [("fail", DataLossError), ("leave", AnchorstreamError)])
def test_a_dead_tail_ends_http_and_the_role_fails(what: str, error: type[Exception]) -> None:
    tail = FakeTail()
    serve, _, failures, thread, _ = started(tail)
    getattr(tail, what).set()
    thread.join(60)
    assert not thread.is_alive()
    assert isinstance(failures[0], error)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{serve.url}/livez")


@pytest.mark.parametrize(("what", "error"), [("fail", DataLossError), ("leave", AnchorstreamError)])
def test_what_runs_beside_lives_and_dies_with_them(what: str, error: type[Exception]) -> None:
    tail, beside = FakeTail(), FakeTail()
    _, _, failures, thread, _ = started(tail, beside={"replies": beside.run})
    assert beside.ready.is_set()
    getattr(beside, what).set()
    thread.join(60)
    assert not thread.is_alive()
    assert isinstance(failures[0], error)
    assert tail.stopped
    beside = FakeTail()
    _, stop, failures, thread, _ = started(FakeTail(), beside={"replies": beside.run})
    stop.set()
    thread.join(60)
    assert not failures
    assert beside.stopped


def test_stopping_does_not_wait_for_a_client_that_waits() -> None:
    serving = Serving()
    serve, stop, failures, thread, _ = started(FakeTail(), serving)
    url = f"{serve.url}/v1/users/nobody/embeddings/churn?min_offset=raw:0:1&timeout_ms=60000"
    waiting = threading.Thread(target=lambda: _ignore(lambda: httpx.get(url, timeout=70)))
    waiting.start()
    _until(lambda: len(serving.catalog["churn"].index.watchers) == 1)
    stop.set()
    thread.join(40)
    assert not thread.is_alive()
    assert not failures
    waiting.join(10)


def test_a_port_in_use_is_refused_at_once_with_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(AnchorstreamError, match=r"serve\.port") as refused:
            Serve(Serving().app, FakeTail(), host="127.0.0.1", port=taken.getsockname()[1])
    assert refused.value.code == "port_in_use"


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_refused(host: str) -> None:
    with pytest.raises(AnchorstreamError) as refused:
        Serve(Serving().app, FakeTail(), host=host, port=0)
    assert refused.value.code == "address_unusable"


def _ignore(run: Callable[[], object]) -> None:
    try:
        run()
    except httpx.HTTPError:
        return
