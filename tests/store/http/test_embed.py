"""`POST /v1/embed`: any query, answered by who holds the user, over an embedder that a test plays."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
import httpx
import numpy as np
import pytest

from store.http.app import create_app
from store.http.problems import KINDS
from store.records.embed_messages import SCENARIO, EmbedReply
from store.records.embedding import EmbeddingRecord
from tests.support.embedder import Asked, Embedder
from tests.support.serving import Client, Serving

PATH = "/v1/embed"
ASKED = {"user_id": "anna", "query": "Is a baby on the way?"}
RECORD = EmbeddingRecord(
    "anna", SCENARIO, "tiny-1", 1, 2, 3, (np.arange(1, 129) / np.linalg.norm(np.arange(1, 129))).astype(np.float32),
    {"raw:0": 7}, {"bill": 2},
)  # fmt: skip


class Asking(Serving):
    """The service with an embedder."""

    def __init__(self, answer: Callable[[], EmbedReply] | None, **settings: Any) -> None:
        super().__init__(**settings)
        self.embedder = Embedder(answer)
        self.app = create_app(replace(self.service, embedder=self.embedder))
        self.client = Client(self.app)


def found() -> EmbedReply:
    # as it comes over the wire: float16
    return EmbedReply("id", EmbeddingRecord.unpack(RECORD.pack()))


def assert_problem(response: httpx.Response, code: str) -> dict[str, Any]:
    body: dict[str, Any] = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (body["code"], body["status"], body["title"]) == (code, KINDS[code].status, KINDS[code].title)
    assert response.status_code == body["status"]
    assert body["detail"]
    return body


def test_an_answer_has_every_member_and_tells_how_current_it_is() -> None:
    serving = Asking(found)
    serving.accept("anna", 7)
    serving.accept("anna", 8)
    body = serving.client.post(PATH, json={**ASKED, "prompt": "tuned", "timeout_ms": 100}).json()
    vector = np.array(body.pop("vector"))
    assert body == {
        "v": 1,
        **ASKED,
        "prompt": "tuned",
        "model": "tiny-1",
        "as_of": 1,
        "newest_event": 1,
        "ingested_at": 2,
        "computed_at": 3,
        "covers": {"raw:0": 7},
        "events": {"bill": 2},
        "dim": 128,
        "stale": True,
        "pending_events": 1,
    }
    np.testing.assert_allclose(vector, RECORD.vector, atol=1e-3)
    assert abs(np.linalg.norm(vector) - 1) < 1e-6
    assert serving.embedder.asked == [Asked("anna", ASKED["query"], "tuned", 100)]


def test_defaults() -> None:
    serving = Asking(found)
    body = serving.client.post(PATH, json=ASKED).json()
    assert (body["prompt"], body["stale"], body["pending_events"]) == (None, False, 0)
    assert serving.embedder.asked == [Asked("anna", ASKED["query"], None, 5000)]


@pytest.mark.parametrize(
    "code",
    ["user_unknown", "prompt_missing", "restoring", "busy", "embed_unsent", "embed_timeout", "not_ready"],
)
def test_refusals_are_problems(code: str) -> None:
    serving = Asking(lambda: EmbedReply("id", None, code, f"because of {code}"))
    assert assert_problem(serving.client.post(PATH, json=ASKED), code)["detail"] == f"because of {code}"


def test_a_refusal_of_a_newer_worker_is_internal_and_named() -> None:
    serving = Asking(lambda: EmbedReply("id", None, "of_tomorrow", "unheard of"))
    assert assert_problem(serving.client.post(PATH, json=ASKED), "internal")["cause"] == "of_tomorrow"


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": None},
        {"user_id": ""},
        {"user_id": "x" * 129},
        {"user_id": 7},
        {"user_id": "\ud800"},
        {"query": None},
        {"query": ""},
        {"query": "x" * 2001},
        {"query": "half a pair: \ud800"},
        {"prompt": ""},
        {"prompt": "x" * 129},
        {"timeout_ms": 0},
        {"timeout_ms": 60_001},
        {"timeout_ms": "soon"},
        {"scenario": "churn"},
    ],
)
def test_a_wrong_request_is_refused_and_nobody_is_asked(change: dict[str, Any]) -> None:
    serving = Asking(found)
    asked = {key: value for key, value in {**ASKED, **change}.items() if value is not None}
    content = json.dumps(asked)  # half a surrogate pair goes as an escape
    response = serving.client.post(PATH, content=content, headers={"content-type": "application/json"})
    assert_problem(response, "request_invalid")
    assert not serving.embedder.asked


@pytest.mark.parametrize("change", [{"user_id": "x" * 128}, {"query": "é🦊" * 1000}, {"timeout_ms": 60_000}])
def test_the_limits_are_allowed(change: dict[str, Any]) -> None:
    assert Asking(found).client.post(PATH, json={**ASKED, **change}).status_code == 200


def test_only_post() -> None:
    assert_problem(Asking(found).client.get(PATH), "method_not_allowed")


def test_it_needs_the_read_token() -> None:
    serving = Asking(found, read_token="reader", admin_token="admin")
    assert_problem(serving.client.post(PATH, json=ASKED), "unauthorized")
    assert_problem(serving.client.post(PATH, json=ASKED, headers={"authorization": "Bearer nobody"}), "unauthorized")
    assert not serving.embedder.asked
    for token in ("reader", "admin"):
        answer = serving.client.post(PATH, json=ASKED, headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == 200


def test_nobody_is_asked_before_serve_is_ready() -> None:
    serving = Asking(found)
    serving.ready.clear()
    assert_problem(serving.client.post(PATH, json=ASKED), "not_ready")
    assert not serving.embedder.asked
    assert_problem(Serving().client.post(PATH, json=ASKED), "not_ready")


def test_waiting_queries_hold_up_nobody() -> None:
    """More of them than there are threads for requests: each waits as a coroutine."""
    serving = Asking(None)
    waiting = 100
    statuses: list[int] = []

    async def main() -> None:
        transport = httpx.ASGITransport(serving.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

            async def ask() -> None:
                statuses.append((await client.post(PATH, json=ASKED)).status_code)

            async with anyio.create_task_group() as group:
                for _ in range(waiting):
                    group.start_soon(ask)
                with anyio.fail_after(30):
                    await anyio.wait_all_tasks_blocked()
                    assert len(serving.embedder.futures) == waiting
                    assert (await client.get("/v1/scenarios")).status_code == 200
                assert not statuses
                for future in serving.embedder.futures:
                    future.set_result(found())

    anyio.run(main)
    assert statuses == [200] * waiting
