"""No kind of request holds up another: searches, changes and lag have their own threads, and end with their client."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import anyio
import httpx
import pytest

from store.base.errors import BrokerError
from store.http import description
from store.http.app import create_app
from store.http.operations import livez
from store.http.problems import ProblemError
from store.http.shared_reading import FAILED_SECONDS, FRESH_SECONDS, SharedReading
from store.http.shared_work import SharedWork
from store.index.index import ScenarioIndex
from store.index.search import SearchStopped
from tests.support.live_server import Raw, listening, post, until
from tests.support.serving import Serving

SEARCH = post("/v1/scenarios/churn/neighbors", b'{"user_id": "anna"}')
LOOK_UP = "/v1/users/anna/embeddings/churn"


class Held:
    """Calls that last until `release`, or until told to stop."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.begun = self.stopped = self.ended = 0
        self._lock = threading.Lock()

    def __call__(self, *_: Any, stop: Callable[[], bool] = lambda: False, **__: Any) -> Any:
        with self._lock:
            self.begun += 1
        while not self.release.wait(0.01):
            if stop():
                with self._lock:
                    self.stopped += 1
                raise SearchStopped
        with self._lock:
            self.ended += 1
        raise BrokerError("released", action="none")


@pytest.fixture
def serving() -> Serving:
    serving = Serving()
    serving.add("anna")
    return serving


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.release.set()


def test_searches_do_not_hold_up_look_ups_and_end_with_their_client(
    serving: Serving, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C5: 45 searches of clients that had gone: 32 s of CPU, and a look-up 54 s."""
    monkeypatch.setattr(ScenarioIndex, "search_users", held)
    pool = serving.app.state.work.pools.searches
    with listening(serving.app) as url, ExitStack() as stack:
        raws = [stack.enter_context(Raw(url, SEARCH)) for _ in range(pool._most)]
        until(lambda: pool._pending == pool._most)
        assert httpx.get(url + LOOK_UP).status_code == 200
        assert httpx.get(f"{url}/v1/scenarios").status_code == 200
        assert "churn" in httpx.get(url).text
        with Raw(url, SEARCH) as one_more:
            status, headers, problem = one_more.answer()
            assert (status, problem["code"], headers["retry-after"]) == (503, "busy", "1")
        running = held.begun
        for raw in raws:
            raw.socket.close()
        until(lambda: not pool._pending)
        assert (held.stopped, held.ended) == (held.begun, 0)
        assert held.begun < len(raws)  # those that queued were not begun, but for a race with those leaving
        assert running == pool._executor._max_workers


def test_changes_that_wait_for_the_broker_hold_up_nothing_else(serving: Serving, held: Held) -> None:
    class Registrar:
        put = retire = staticmethod(held)

    app = create_app(replace(serving.service, registrar=Registrar()))
    pool = app.state.work.pools.changes
    with listening(app) as url, ExitStack() as stack:
        request = b"DELETE /v1/scenarios/churn HTTP/1.1\r\nhost: localhost\r\n\r\n"
        raws = [stack.enter_context(Raw(url, request)) for _ in range(pool._most)]
        until(lambda: pool._pending == pool._most)
        assert httpx.get(url + LOOK_UP).status_code == 200
        assert httpx.post(f"{url}/v1/scenarios/churn/neighbors", json={"user_id": "anna"}).status_code == 200
        assert httpx.delete(f"{url}/v1/scenarios/churn").json()["code"] == "busy"
        held.release.set()
        assert {raw.answer()[0] for raw in raws} == {503}


def test_slow_scrapes_and_overviews_do_not_hold_up_look_ups(
    serving: Serving, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They had the threads of look-ups."""
    monkeypatch.setattr("store.http.service.generate_latest", held)
    monkeypatch.setattr("store.http.scenarios.describe_all", held)
    pool = serving.app.state.work.pools.overviews
    with listening(serving.app) as url, ExitStack() as stack:
        for path, many in (("/metrics", 60), ("/v1/scenarios", pool._most)):
            request = f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
            for _ in range(many):
                stack.enter_context(Raw(url, request))
        until(lambda: pool._pending == pool._most)
        until(lambda: held.begun == 2)
        assert httpx.get(url + LOOK_UP).status_code == 200
        assert httpx.get(f"{url}/livez").status_code == 200
        assert httpx.get(f"{url}/v1/scenarios").json()["code"] == "busy"
        assert held.begun == 2  # one for all who scrape, one of those who look


def test_slow_look_ups_do_not_hold_up_scrapes(serving: Serving, held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScenarioIndex, "get", held)
    request = f"GET {LOOK_UP} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
    with listening(serving.app) as url, ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(Raw(url, request))
        until(lambda: held.begun >= 40)
        assert httpx.get(f"{url}/metrics").status_code == 200
        assert httpx.get(f"{url}/v1/scenarios").status_code == 200
        held.release.set()


def test_shared_work_keeps_to_its_share() -> None:
    now, calls = [0.0], [0]

    def work() -> bytes:
        calls[0] += 1
        now[0] += 1.0
        return b"%d" % calls[0]

    shared = SharedWork("test", work, share=0.5, clock=lambda: now[0])
    asked = [anyio.run(shared.get) for _ in range(10)]
    assert asked == [b"1", b"2", b"3"] + [b"4"] * 7  # 2 s at once, and half of what passed meanwhile
    now[0] += 2.0
    assert anyio.run(shared.get) == b"5"


def test_shared_work_that_fails_is_done_again() -> None:
    outcomes: list[Any] = [ValueError("once"), b"then"]

    def work() -> bytes:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return bytes(outcome)

    shared = SharedWork("test", work)
    with pytest.raises(ValueError, match="once"):
        anyio.run(shared.get)
    assert anyio.run(shared.get) == b"then"


def test_the_description_is_made_once(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """35 ms of the event loop at every call; for others it is the same until the routes change."""
    made: list[object] = []
    describe = description.describe
    monkeypatch.setattr(description, "describe", lambda app: made.append(app) or describe(app))
    first = serving.client.get("/openapi.json").json()
    assert serving.client.get("/openapi.json").json() == first
    assert len(made) == 1
    serving.app.add_api_route("/v1/new", livez, methods=["GET"])
    assert "/v1/new" in serving.client.get("/openapi.json").json()["paths"]
    assert len(made) == 2


def test_a_silent_broker_holds_up_lag_alone(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """C4: 60 calls of `/v1/lag` took every thread, and look-ups timed out."""
    monkeypatch.setattr("store.http.console.LAG_SECONDS", 0.05)
    serving = Serving(held)
    serving.add("anna")
    with listening(serving.app) as url, ExitStack() as stack:
        request = b"GET /v1/lag HTTP/1.1\r\nhost: localhost\r\n\r\n"
        raws = [stack.enter_context(Raw(url, request)) for _ in range(60)]
        until(lambda: held.begun)
        assert httpx.get(url + LOOK_UP).status_code == 200
        assert "still being asked" in httpx.get(url).text
        held.release.set()
        assert {(status, problem["code"]) for status, _, problem in (raw.answer() for raw in raws)} == {
            (503, "lag_unavailable")
        }
        assert (held.begun, held.ended) == (1, 1)


def test_a_reading_is_shared_remembered_and_renewed() -> None:
    now, calls = [0.0], [0]
    fail = False

    def read() -> dict[str, Any]:
        calls[0] += 1
        if fail:
            raise BrokerError("away", action="start it")
        return {"n": calls[0]}

    reading = SharedReading(read, clock=lambda: now[0])

    def get() -> dict[str, Any]:
        return anyio.run(lambda: reading.get(wait_seconds=30))

    assert [get(), get()] == [{"n": 1}, {"n": 1}]
    now[0] += FRESH_SECONDS
    assert get() == {"n": 2}
    fail = True
    now[0] += FRESH_SECONDS
    for _ in range(3):
        with pytest.raises(ProblemError, match="away"):
            get()
    assert calls[0] == 3
    fail = False
    now[0] += FAILED_SECONDS
    assert get() == {"n": 4}


def test_one_who_waits_no_longer_does_not_end_it_for_the_others(held: Held) -> None:
    reading = SharedReading(held)

    async def main() -> None:
        with pytest.raises(ProblemError, match="still being asked"):
            await reading.get(wait_seconds=0.01)
        held.release.set()
        with pytest.raises(ProblemError, match="released"):
            await reading.get(wait_seconds=30)

    anyio.run(main)
    assert held.begun == 1
