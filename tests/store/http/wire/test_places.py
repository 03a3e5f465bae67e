"""Who gets a place: health always; who waits for something else only so many; who takes no answer gives way."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from store.http.wire.places import LOBBY_CONNECTIONS
from store.index.index import ScenarioIndex
from store.index.search import SearchStopped
from tests.support.live_server import Raw, listening, post, until
from tests.support.serving import Serving

CUT = "anchorstream_http_connections_cut_total"
WAITING = "/v1/users/a/embeddings/churn?min_offset=raw:0:1&timeout_ms=60000"
SEARCH = post("/v1/scenarios/churn/neighbors", b'{"user_id": "u0"}', token="reader")


def get(path: str, token: str = "reader") -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n".encode()


@pytest.fixture
def serving() -> Serving:
    serving = Serving(read_token="reader", admin_token="admin", max_connections=16)
    for i in range(1000):
        serving.add(f"u{i}")
    return serving


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Searches that last until the end of the test, or until nobody waits for them."""
    release = threading.Event()

    def search(*_: Any, stop: Any, **__: Any) -> Any:
        while not release.wait(0.01):
            if stop():
                break
        raise SearchStopped

    monkeypatch.setattr(ScenarioIndex, "search_users", search)
    yield
    release.set()


def refused(raw: Raw) -> str:
    status, headers, problem = raw.answer()
    assert (status, headers["retry-after"], headers["content-type"]) == (503, "1", "application/problem+json")
    code: str = problem["code"]
    return code


def test_who_waits_for_an_offset_leaves_room_for_everything_else(serving: Serving) -> None:
    """1,024 of them shut `/livez`, `/readyz` and `/metrics` out."""
    with listening(serving.app, connections=16) as url, ExitStack() as stack:
        raws = [stack.enter_context(Raw(url, get(WAITING))) for _ in range(16)]
        watchers = serving.catalog["churn"].index.watchers
        until(lambda: len(watchers._by_user.get("a", ())) == 4)
        with Raw(url, get(WAITING)) as one_more:
            assert refused(one_more) == "busy"
        for path in ("/livez", "/readyz", "/metrics"):
            assert httpx.get(url + path).status_code == 200
        headers = {"authorization": "Bearer reader"}
        assert httpx.get(f"{url}/v1/users/u0/embeddings/churn", headers=headers).status_code == 200
        for raw in raws:
            raw.socket.close()
        until(lambda: not watchers)
        with Raw(url, get(WAITING)):
            until(lambda: len(watchers) == 1)


def test_health_has_room_when_all_places_are_at_work(serving: Serving, searches: None) -> None:
    pool = serving.app.state.work.pools.searches
    with listening(serving.app, connections=16) as url, ExitStack() as stack:
        working = [stack.enter_context(Raw(url, SEARCH)) for _ in range(16)]
        until(lambda: pool._pending == 16)
        with httpx.Client() as client:
            for _ in range(3):
                for path in ("/livez", "/readyz", "/metrics"):
                    assert client.get(url + path).status_code == 200
            assert client.get(f"{url}/v1/scenarios", headers={"authorization": "Bearer reader"}).status_code == 503
        working[0].socket.close()
        until(lambda: pool._pending == 15)
        assert httpx.get(f"{url}/v1/scenarios", headers={"authorization": "Bearer reader"}).status_code == 200


def test_who_says_nothing_in_the_room_for_health_makes_room_too(serving: Serving, searches: None) -> None:
    pool = serving.app.state.work.pools.searches
    with listening(serving.app, connections=16) as url, ExitStack() as stack:
        for _ in range(16):
            stack.enter_context(Raw(url, SEARCH))
        until(lambda: pool._pending == 16)
        for _ in range(100):
            stack.enter_context(Raw(url, b"GET /livez HT"))
        assert httpx.get(f"{url}/livez").status_code == 200


def test_beyond_that_a_connection_is_told_so_before_it_asks(
    serving: Serving, searches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr("store.http.service.generate_latest", lambda _: str(release.wait(60)).encode())
    pool = serving.app.state.work.pools.searches
    with listening(serving.app, connections=16) as url, ExitStack() as stack:
        for _ in range(16):
            stack.enter_context(Raw(url, SEARCH))
        until(lambda: pool._pending == 16)
        for _ in range(LOBBY_CONNECTIONS):
            stack.enter_context(Raw(url, get("/metrics")))
        until(lambda: refused_at_once(stack.enter_context(Raw(url))))
        release.set()


def refused_at_once(raw: Raw) -> bool:
    """Else it scrapes from now on."""
    raw.socket.settimeout(0.3)
    try:
        return refused(raw) == "busy"
    except TimeoutError:
        raw.send(get("/metrics"))
        return False


def test_a_flood_of_new_connections_does_not_push_out_who_has_just_asked(serving: Serving) -> None:
    """Each new one cut the one before it, whose request lay unread: 11 of 11 calls of `/livez` were reset."""
    half, whole = b"GET /livez HT", get("/livez")
    with listening(serving.app, connections=16) as url:
        held = threading.Event()
        loop = loop_of(serving, url)
        loop.call_soon_threadsafe(held.wait, 30)  # all of them are there when it goes on
        with ExitStack() as stack:
            asked = stack.enter_context(Raw(url, whole))
            for _ in range(100):
                stack.enter_context(Raw(url, half))
            held.set()
            assert asked.answer()[0] == 200


def loop_of(serving: Serving, url: str) -> asyncio.AbstractEventLoop:
    found: list[asyncio.AbstractEventLoop] = []

    async def look() -> None:
        found.append(asyncio.get_running_loop())

    serving.app.add_api_route("/look", look)
    httpx.get(f"{url}/look", headers={"authorization": "Bearer reader"})
    return found[0]


@pytest.mark.parametrize("body", [0, 60_000, 3_000_000])
def test_a_refused_client_can_read_why(serving: Serving, searches: None, body: int) -> None:
    """The answer came as a reset: what the client was still sending was never read."""
    pool = serving.app.state.work.pools.searches
    request = post("/v1/scenarios/churn/neighbors", b"x" * body, token="reader")
    with listening(serving.app, connections=16) as url, ExitStack() as stack:
        for _ in range(16):
            stack.enter_context(Raw(url, SEARCH))
        until(lambda: pool._pending == 16)
        for _ in range(20):
            with Raw(url, request) as raw:
                time.sleep(0.02)  # a reset would arrive meanwhile, and take the answer with it
                assert refused(raw) == "busy"
                assert raw.ended()


def test_a_client_that_resets_while_it_is_refused_is_no_error(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """Shutting down a socket that has been reset raises: a traceback each."""
    from store.http.wire.connection import BoundedConnection

    found: list[BoundedConnection] = []
    made = BoundedConnection.connection_made

    def hold(self: BoundedConnection, transport: asyncio.Transport) -> None:
        made(self, transport)
        self._raw.pause_reading()  # type: ignore[union-attr]  # so that the reset is not seen before
        found.append(self)

    with pytest.MonkeyPatch.context() as patch, listening(serving.app) as url, caplog.at_level(logging.ERROR):
        patch.setattr(BoundedConnection, "connection_made", hold)
        with Raw(url, b"GET /livez HTTP/1.1\r\n") as raw:
            until(lambda: found)
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection = found[0]
        ended = threading.Event()

        def close() -> None:
            assert connection.linger(refused=True)
            ended.set()

        connection.loop.call_soon_threadsafe(close)
        assert ended.wait(30)
        until(lambda: connection not in connection.connections)
    assert not caplog.records


# answers that nobody takes


def test_who_takes_no_answer_makes_room(serving: Serving) -> None:
    page = get("/v1/scenarios/churn/embeddings?limit=1000") * 4
    with listening(serving.app, connections=16) as url, ExitStack() as stack:
        for _ in range(16):
            stack.enter_context(Raw(url, page, receive_buffer=4096))
        headers = {"authorization": "Bearer reader"}
        look_up = f"{url}/v1/users/u0/embeddings/churn"
        until(lambda: httpx.get(look_up, headers=headers).status_code == 200)
        assert f'{CUT}{{reason="evicted"}}' in httpx.get(f"{url}/metrics").text


def test_the_bytes_of_answers_that_nobody_takes_are_bounded(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    from store.http.wire import places

    monkeypatch.setattr(places, "ALL_ANSWERS_BYTES", 8 << 20)
    monkeypatch.setattr(places, "PATIENCE_SECONDS", 3600.0)
    page = get("/v1/scenarios/churn/embeddings?limit=1000")
    with listening(serving.app, connections=64) as url, ExitStack() as stack:
        until(lambda: refused_page(stack.enter_context(Raw(url, page, receive_buffer=4096))))
        # small answers go on; and who has taken nothing for a while makes room
        headers = {"authorization": "Bearer reader"}
        assert httpx.get(f"{url}/v1/users/u0/embeddings/churn", headers=headers).status_code == 200
        monkeypatch.setattr(places, "PATIENCE_SECONDS", 0.0)
        assert httpx.get(f"{url}/v1/scenarios/churn/embeddings?limit=1000", headers=headers).status_code == 200
        assert f'{CUT}{{reason="answer"}}' in httpx.get(f"{url}/metrics").text


def refused_page(raw: Raw) -> bool:
    line = b""
    while not line.endswith(b"\r\n"):
        line += raw.socket.recv(1)
    return line.startswith(b"HTTP/1.1 503")


def test_a_connection_holds_one_answer_that_nobody_takes(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[str] = []
    page = ScenarioIndex.page

    def counted(self: ScenarioIndex, after: str, limit: int) -> Any:
        began.append(after)
        return page(self, after, limit)

    monkeypatch.setattr(ScenarioIndex, "page", counted)
    pages = b"".join(get(f"/v1/scenarios/churn/embeddings?limit=1000&after=u{i}") for i in range(3))
    with listening(serving.app) as url, Raw(url, pages, receive_buffer=1 << 16) as raw:
        until(lambda: began)
        for _ in range(20):
            httpx.get(f"{url}/livez")
        assert len(began) == 1
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 3:
            answers += raw.socket.recv(1 << 20)
        assert len(began) == 3
