"""What anybody may cost the service: bodies, connections, time, open files; over real sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from store.http import body as bodies
from tests.support.live_server import Alone, Raw, listening, post, until
from tests.support.serving import Serving

NEIGHBORS = "/v1/scenarios/churn/neighbors"
CUT = "anchorstream_http_connections_cut_total"


@pytest.fixture
def serving() -> Serving:
    return Serving(read_token="reader", admin_token="admin")


@pytest.fixture
def url(serving: Serving) -> Iterator[str]:
    with listening(serving.app) as url:
        yield url


# who has no token costs nothing


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", [NEIGHBORS, "/v1/embed", "/nowhere"])
def test_the_token_is_asked_for_before_the_body(url: str, path: str, chunked: bool) -> None:
    """C2: 60 unfinished bodies of strangers took 1 GB."""
    with Raw(url, post(path, length=15 << 20, chunked=chunked)) as raw:
        status, headers, problem = raw.answer()  # nothing of the body was sent
        assert (status, problem["code"], headers["connection"]) == (401, "unauthorized", "close")
        raw.send(b"x" * 100_000)
        assert raw.ended()


def test_a_short_body_of_a_stranger_does_not_cost_the_connection(url: str) -> None:
    with Raw(url, post(NEIGHBORS, b"x" * 1000)) as raw:
        assert raw.answer()[0] == 401
        raw.send(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert raw.answer()[0] == 200


def test_bad_json_is_not_read_before_the_token(url: str) -> None:
    """C9."""
    for method, path, token, status in (
        ("POST", NEIGHBORS, "wrong", 401),
        ("POST", NEIGHBORS, "reader", 422),
        ("PUT", "/v1/scenarios/new", "wrong", 401),
        ("PUT", "/v1/scenarios/new", "reader", 403),
        ("DELETE", "/v1/scenarios/new", "reader", 403),
        ("PUT", "/v1/scenarios/new", "admin", 422),
    ):
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        assert httpx.request(method, url + path, content=b"{", headers=headers).status_code == status, (method, token)


def test_open_pages_read_no_body(url: str) -> None:
    with Raw(url, post("/livez", length=10_000)) as raw:
        assert raw.answer()[0] == 405


# bodies


@pytest.mark.parametrize("path", [NEIGHBORS, "/v1/embed"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_as_long_as_its_route_needs(url: str, path: str, chunked: bool) -> None:
    most = bodies.LONG_BODY_BYTES if path == NEIGHBORS else bodies.MAX_BODY_BYTES
    head = post(path, length=most + 1, chunked=chunked, token="reader")
    with Raw(url, head) as raw:
        if chunked:
            raw.send(f"{most + 1:x}\r\n".encode() + b"x" * (most + 1))
        status, headers, problem = raw.answer()
        assert (status, problem["code"], headers["connection"]) == (413, "body_too_large", "close")


def test_a_body_that_does_not_come_is_not_waited_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.3)
    with Raw(url, post(NEIGHBORS, b'{"user_id"', length=1000, token="reader")) as raw:
        status, _, problem = raw.answer()
        assert (status, problem["code"]) == (408, "request_timeout")


def test_all_bodies_together_are_bounded(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "ALL_BODIES_BYTES", 100_000)
    request = post(NEIGHBORS, b"x" * 80_000, length=90_000, token="reader")
    with Raw(url, request), ExitStack() as stack:
        until(lambda: _busy(stack.enter_context(Raw(url, request))))
    # what left gave its share back
    body = b'{"user_id": "a", "deny": ["' + b"x" * 90 + b'"]}'
    headers = {"authorization": "Bearer reader", "content-type": "application/json"}
    until(lambda: httpx.post(url + NEIGHBORS, content=body + b" " * 80_000, headers=headers).status_code == 200)


def _busy(raw: Raw) -> bool:
    raw.socket.settimeout(0.5)
    try:
        status, headers, problem = raw.answer()
    except TimeoutError:
        return False
    assert (status, problem["code"], headers["retry-after"]) == (503, "busy", "1")
    return True


def test_a_client_that_leaves_in_its_body_is_no_error(url: str, serving: Serving) -> None:
    with Raw(url, post(NEIGHBORS, b"{", length=1000, token="reader")):
        pass
    until(lambda: 'method="POST",route="(none)",status="499"' in httpx.get(f"{url}/metrics").text)


# connections


def test_many_who_say_nothing_keep_nobody_out(serving: Serving) -> None:
    """C2: half-sent requests took every descriptor."""
    with listening(serving.app, connections=20) as url, ExitStack() as stack:
        half = b"POST /v1/embed HTTP/1.1\r\nhost: loc"
        silent = [stack.enter_context(Raw(url, half)) for _ in range(60)]
        assert httpx.get(f"{url}/livez").status_code == 200
        assert silent[0].ended()  # the one that waited longest made room
        silent[-1].send(b"alhost\r\ncontent-length: 0\r\n\r\n")
        assert silent[-1].answer()[0] == 401


def test_a_head_that_does_not_come_is_not_waited_for(serving: Serving) -> None:
    with listening(serving.app, head_seconds=0.3) as url, Raw(url, b"GET /livez HTT") as raw:
        dripping = threading.Timer(0.2, raw.send, [b"P"])
        dripping.start()
        status, _, problem = raw.answer()
        dripping.join()
        assert (status, problem["code"]) == (408, "request_timeout")
        assert raw.ended()


def test_a_connection_that_keeps_asking_lives_on(serving: Serving) -> None:
    """Each request has its own time, whatever memory its objects take over from the one before."""
    with listening(serving.app, head_seconds=4.0) as url, Raw(url) as raw:
        end = time.monotonic() + 6.0
        while time.monotonic() < end:
            raw.send(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert raw.answer()[0] == 200


def test_a_refused_body_that_drips_does_not_keep_the_connection(serving: Serving) -> None:
    with listening(serving.app, body_seconds=0.3) as url, Raw(url, post(NEIGHBORS, b"x", length=1000)) as raw:
        assert raw.answer()[0] == 401
        assert raw.ended()


def test_who_does_not_take_the_answer_is_cut_off(serving: Serving) -> None:
    for i in range(1000):
        serving.add(f"u{i}")
    request = b"GET /v1/scenarios/churn/embeddings?limit=1000 HTTP/1.1\r\nhost: localhost\r\n"
    request += b"authorization: Bearer reader\r\n\r\n"
    with listening(serving.app, answer_seconds=-1000) as url, Raw(url, request * 4, receive_buffer=4096):
        until(lambda: f'{CUT}{{reason="answer"}} 1.0' in httpx.get(f"{url}/metrics").text)


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"A" * 20_000])
def test_what_is_not_http_is_a_problem(url: str, garbage: bytes) -> None:
    with Raw(url, garbage + b"\r\n\r\n") as raw:
        status, _, problem = raw.answer()
        assert (status, problem["code"]) == (400, "http_invalid")
        assert raw.ended()


def test_garbage_behind_a_request_harms_nobody(serving: Serving) -> None:
    failures: list[object] = []
    waiting = b"GET /v1/users/a/embeddings/churn?min_offset=raw:0:1&timeout_ms=300 HTTP/1.1\r\nhost: localhost\r\n"
    with listening(serving.app) as url:
        with Raw(url, waiting + b"authorization: Bearer reader\r\n\r\n\x00\x01garbage\r\n\r\n") as raw:
            assert raw.answer()[0] == 409
            assert raw.answer()[0] in (0, 400)
        assert httpx.get(f"{url}/livez").status_code == 200
    assert not failures


# alone in a process


def test_running_out_of_open_files_is_survived() -> None:
    """C2: serve exited."""
    with Alone(files=300, read_token="reader") as alone, ExitStack() as stack:
        for _ in range(700):
            stack.enter_context(Raw(alone.url, post("/v1/embed", b"x", length=1000)))
            stack.enter_context(Raw(alone.url, b"POST /v1/embed HTTP/1.1\r\nhost: loc"))
            assert alone.process.poll() is None
        assert httpx.get(f"{alone.url}/livez", timeout=30).status_code == 200


def test_unfinished_bodies_of_strangers_take_no_memory() -> None:
    """C2: 92 → 1,004 MB."""
    with Alone(read_token="reader") as alone:
        assert httpx.get(f"{alone.url}/livez").status_code == 200
        before = alone.memory_mb()
        with ExitStack() as stack:
            raws = [stack.enter_context(Raw(alone.url, post(NEIGHBORS, length=16 << 20))) for _ in range(60)]
            threads = [threading.Thread(target=raw.send, args=(bytes(15 << 20),)) for raw in raws]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert alone.memory_mb() - before < 100
        assert httpx.get(f"{alone.url}/livez").status_code == 200
