"""How requests are cut out of the bytes: heads, chunks, lengths that contradict each other, half-closed connections."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.live_server import Alone, Raw, listening, post, until
from tests.support.serving import Serving

NEIGHBORS = "/v1/scenarios/churn/neighbors"
LIVEZ = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"
BODY = b'{"user_id": "anna"}'


@pytest.fixture
def serving() -> Serving:
    serving = Serving(read_token="reader")
    serving.add("anna")
    return serving


@pytest.fixture
def url(serving: Serving) -> Iterator[str]:
    with listening(serving.app) as url:
        yield url


def invalid(raw: Raw) -> str:
    status, headers, problem = raw.answer()
    assert (status, problem["code"], headers["connection"]) == (400, "http_invalid", "close")
    assert raw.ended()
    detail: str = problem["detail"]
    return detail


# heads


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("size", [16 << 10, (16 << 10) + 1, 40_000, 120_000])
def test_a_head_has_a_bound_however_it_comes(url: str, size: int, pieces: int) -> None:
    """120 KB passed when they came in one piece."""
    head = LIVEZ.removesuffix(b"\r\n") + b"x-long: "
    head += b"x" * (size - len(head) - 4) + b"\r\n\r\n"
    assert len(head) == size
    with Raw(url) as raw:
        step = -(-size // pieces)
        for at in range(0, size, step):
            raw.send(head[at : at + step])
        if size <= 16 << 10:
            assert raw.answer()[0] == 200
        else:
            assert "16" in invalid(raw)


def test_many_requests_in_one_piece_are_answered_in_order(url: str) -> None:
    with Raw(url) as raw:
        request = post(NEIGHBORS, BODY, token="reader") + LIVEZ + b"GET /nowhere HTTP/1.1\r\nhost: localhost\r\n"
        raw.send((request + b"authorization: Bearer reader\r\n\r\n") * 300)
        with raw.socket.makefile("rb") as file:
            found = [one(file) for _ in range(900)]
    assert found == [200, 200, 404] * 300


def one(file: Any, is_head: bool = False) -> int:
    """Status of the next answer, interim ones passed over."""
    while (status := int(file.readline().split()[1])) == 100:
        assert file.readline() == b"\r\n"
    length = 0
    while line := file.readline().strip():
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    file.read(0 if is_head else length)
    return status


@pytest.mark.parametrize("blank", [b"\r\n", b"\n", b"\r\n\r\n\n"])
@pytest.mark.parametrize("pieces", [False, True])
def test_blank_lines_before_a_request_are_no_part_of_it(url: str, blank: bytes, pieces: bool) -> None:
    """RFC 9112 §2.2; older clients end the body before with one."""
    with Raw(url) as raw, raw.socket.makefile("rb") as file:
        for request in (LIVEZ, post(NEIGHBORS, BODY, token="reader"), LIVEZ):
            for part in [bytes([byte]) for byte in blank] if pieces else [blank]:
                raw.send(part)
                time.sleep(0.01 if pieces else 0)
            raw.send(request)
            assert one(file) == 200
        raw.send(blank + LIVEZ + blank + LIVEZ)
        assert [one(file), one(file)] == [200, 200]


def test_a_lone_carriage_return_is_no_line(url: str) -> None:
    with Raw(url, b"\r" + LIVEZ) as raw:
        invalid(raw)
    with Raw(url, b"\r\n\r") as raw:
        raw.socket.shutdown(socket.SHUT_WR)
        assert raw.ended()


@pytest.mark.parametrize(
    "target", [b"http://localhost/livez", b"HTTP://localhost:8080/livez?x=1", b"https://127.0.0.1/livez"]
)
def test_a_target_may_name_the_server(url: str, target: bytes) -> None:
    """RFC 9112 §3.2.2: absolute-form, as sent to proxies, was 404."""
    with Raw(url, LIVEZ.replace(b"/livez", target)) as raw:
        assert raw.answer()[0] == 200
    with Raw(url, LIVEZ.replace(b"/livez", b"http://localhost")) as raw:
        assert raw.answer()[0] == 401  # the console, at /


def test_of_the_two_hosts_the_targets_counts() -> None:
    serving = Serving()  # no token: others than this machine's names are refused
    with listening(serving.app) as url:
        for target, host, status in (
            (b"http://evil.example/v1/scenarios", b"localhost", 421),
            (b"http://localhost/v1/scenarios", b"evil.example", 200),
        ):
            head = b"GET " + target + b" HTTP/1.1\r\nhost: " + host + b"\r\n\r\n"
            with Raw(url, head) as raw:
                assert raw.answer()[0] == status


# lengths


@pytest.mark.parametrize("path", ["/livez", "/v1/embed", NEIGHBORS])
@pytest.mark.parametrize(
    "lengths",
    [
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 0\r\n",
        b"content-length: 5\r\ncontent-length: 6\r\n",
        b"transfer-encoding: chunked, chunked\r\n",
        b"transfer-encoding: gzip, chunked\r\n",
        b"transfer-encoding: identity\r\n",
        b"content-length: +5\r\n",
    ],
)
def test_two_lengths_are_none(url: str, path: str, lengths: bytes) -> None:
    """RFC 9112 §6.3: Content-Length beside Transfer-Encoding is how requests are smuggled; the connection lived on."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer reader\r\n".encode()
    with Raw(url, head + lengths + b"\r\n0\r\n\r\n" + LIVEZ) as raw:
        invalid(raw)


def test_chunks_of_http_1_0_are_none(url: str) -> None:
    head = b"POST /livez HTTP/1.0\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    with Raw(url, head) as raw:
        invalid(raw)


@pytest.mark.parametrize("version", [b"2.0", b"1.9", b"0.9", b"3.0"])
def test_other_versions_are_not_spoken(url: str, version: bytes) -> None:
    with Raw(url, LIVEZ.replace(b"1.1", version)) as raw:
        assert version.decode() in invalid(raw)


# chunks


def chunked(size: int, body: bytes, token: str = "reader") -> bytes:
    chunks = (body[at : at + size] for at in range(0, len(body), size))
    coded = b"".join(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" for chunk in chunks)
    return post(NEIGHBORS, coded + b"0\r\n\r\n", chunked=True, token=token)


@pytest.mark.parametrize("size", [3, 1000, 300_000])
def test_a_body_may_come_in_chunks(url: str, size: int) -> None:
    padding = b" " * (2000 if size == 3 else 1_000_000)
    with Raw(url, chunked(size, BODY + padding) + LIVEZ) as raw, raw.socket.makefile("rb") as file:
        assert [one(file), one(file)] == [200, 200]


def test_too_many_chunks_are_refused(url: str) -> None:
    with Raw(url, chunked(1, BODY + b" " * 50_000)) as raw:
        assert "chunks" in invalid(raw)


def test_broken_chunks_are_told_and_end_the_connection(url: str) -> None:
    with Raw(url, post(NEIGHBORS, b"5\r\n{\r\n", chunked=True, token="reader") + b"xyz\r\n\r\n") as raw:
        invalid(raw)


def test_strangers_chunks_are_not_looked_at() -> None:
    """0.66 s of CPU for 250 KB, before the token was."""
    strangers, ours = chunked(1, b"x" * 40_000, token="wrong"), post(NEIGHBORS, b"x" * 30_000, token="wrong")
    used = {}
    with Alone(read_token="reader") as alone:
        for name, request in (("warm", ours), ("ours", ours), ("strangers", strangers)):
            before = alone.cpu_seconds()
            for _ in range(40):
                with Raw(alone.url, request) as raw:
                    assert raw.answer()[0] == 401
            used[name] = alone.cpu_seconds() - before
    # a tick of the clock is 10 ms; parsing them took 0.1 s each
    assert used["strangers"] < 5 * (used["ours"] + 0.1)


@pytest.mark.parametrize("size", [7, 20])
def test_chunks_may_wait_to_be_told_to_continue(url: str, size: int) -> None:
    head, _, body = chunked(size, BODY).partition(b"\r\n\r\n")
    with Raw(url, head + b"\r\nexpect: 100-continue\r\n\r\n") as raw, raw.socket.makefile("rb") as file:
        assert file.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert file.readline() == b"\r\n"
        raw.send(body)
        assert one(file) == 200


# any cut


KINDS = {
    "look-up": (b"GET /v1/users/anna/embeddings/churn HTTP/1.1\r\nhost: localhost\r\n%s\r\n", 200),
    "health": (LIVEZ, 200),
    "upgrade": (LIVEZ.removesuffix(b"\r\n") + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n", 200),
    "head": (b"HEAD /nowhere HTTP/1.1\r\nhost: localhost\r\n%s\r\n", 404),
    "search": (post(NEIGHBORS, BODY, token="reader"), 200),
    "chunks": (chunked(3, BODY + b" " * 1000), 200),
}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=6),
    st.lists(st.integers(0, 2000), max_size=6),
    st.booleans(),
)
def test_requests_are_the_same_however_their_bytes_come(url: str, kinds: list[str], cuts: list[int], end: bool) -> None:
    token = b"authorization: Bearer reader\r\n"
    data = b"".join(KINDS[kind][0].replace(b"%s", token) for kind in kinds)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    with Raw(url) as raw, raw.socket.makefile("rb") as file:
        raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for begin, stop in pairwise(places):
            raw.send(data[begin:stop])
            time.sleep(0.002)
        if end:
            raw.socket.shutdown(socket.SHUT_WR)
        assert [one(file, kind == "head") for kind in kinds] == [KINDS[kind][1] for kind in kinds]
        if end:
            assert not file.read()


# half-closed


@pytest.mark.parametrize("path", ["/livez", "/v1/users/anna/embeddings/churn"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_who_has_said_everything_gets_an_answer(url: str, path: str, version: str) -> None:
    """`printf … | nc`: the other direction is still open."""
    request = f"GET {path} HTTP/{version}\r\nhost: localhost\r\nauthorization: Bearer reader\r\n\r\n".encode()
    with Raw(url, request) as raw:
        raw.socket.shutdown(socket.SHUT_WR)
        assert raw.answer()[0] == 200
        assert raw.ended()


def test_all_requests_before_the_end_are_answered(url: str) -> None:
    search = post(NEIGHBORS, BODY, token="reader")
    with Raw(url, search + LIVEZ + chunked(5, BODY) + LIVEZ) as raw:
        raw.socket.shutdown(socket.SHUT_WR)
        with raw.socket.makefile("rb") as file:
            assert [one(file) for _ in range(4)] == [200] * 4
        assert raw.ended()


def test_who_waits_half_closed_gets_the_answer_when_it_comes(url: str, serving: Serving) -> None:
    wait = b"GET /v1/users/anna/embeddings/churn?min_offset=raw:0:7&timeout_ms=60000 HTTP/1.1\r\nhost: localhost\r\n"
    watchers = serving.catalog["churn"].index.watchers
    with Raw(url, wait + b"authorization: Bearer reader\r\n\r\n") as raw:
        raw.socket.shutdown(socket.SHUT_WR)
        until(lambda: len(watchers) == 1)
        with raw.socket.makefile("rb") as file:
            # asked with an interim answer whether anybody is still there
            assert file.readline() == b"HTTP/1.1 100 Continue\r\n"
            serving.add("anna", covered=7)
            while (line := file.readline()) in (b"\r\n", b"HTTP/1.1 100 Continue\r\n"):
                pass
            assert line.startswith(b"HTTP/1.1 200")


def test_who_has_left_is_told_from_who_has_said_everything(url: str, serving: Serving) -> None:
    wait = b"GET /v1/users/anna/embeddings/churn?min_offset=raw:0:7&timeout_ms=60000 HTTP/1.1\r\nhost: localhost\r\n"
    watchers = serving.catalog["churn"].index.watchers
    with Raw(url, wait + b"authorization: Bearer reader\r\n\r\n"):
        until(lambda: len(watchers) == 1)
    until(lambda: not watchers)


@pytest.mark.parametrize("part", [b"GET /livez HT", post(NEIGHBORS, b"{", length=100, token="reader")])
def test_half_a_request_and_the_end_is_the_end(url: str, part: bytes) -> None:
    with Raw(url, part) as raw:
        raw.socket.shutdown(socket.SHUT_WR)
        assert raw.ended()
    assert httpx.get(f"{url}/livez").status_code == 200
