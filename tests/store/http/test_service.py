"""The HTTP contract: answers, one error shape everywhere, tokens, console, metrics, and the committed OpenAPI."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from httpx import Response
from structlog.testing import capture_logs

from store.account.account import Account, SourceAccount
from store.base import pulse
from store.base.errors import BrokerError
from store.http import body as bodies
from store.http.openapi import description
from store.http.problems import KINDS
from stream.account.report import ProcessedPartition, RawPartition
from stream.account.report import account as account_of
from stream.raw_counts import RawCounts
from tests.support.serving import Serving, streamed

DOCS = Path(__file__).parents[3] / "docs" / "http.md"


def assert_problem(response: Response, code: str) -> dict[str, Any]:
    """The one shape of every error."""
    body: dict[str, Any] = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert body["code"] == code
    assert response.status_code == body["status"] == KINDS[code].status
    assert body["title"] == KINDS[code].title
    assert body["type"] == "about:blank"
    assert body["detail"]
    return body


@pytest.fixture
def serving() -> Serving:
    return Serving()


# embeddings


def test_embedding_has_every_member_of_the_contract(serving: Serving) -> None:
    serving.add("anna", np.arange(1, 129), covered=7)
    serving.accept("anna", 8)
    body = serving.client.get("/v1/users/anna/embeddings/churn").json()
    vector = np.array(body.pop("vector"))
    assert body == {
        "v": 1,
        "user_id": "anna",
        "scenario": "churn",
        "model": "m",
        "as_of": 1,
        "newest_event": 1,
        "ingested_at": 2,
        "computed_at": 3,
        "covers": {"raw:0": 7},
        "events": {"bill": 2},
        "dim": 128,
        "stale": True,
        "pending_events": 1,
        "other_query": False,
    }
    np.testing.assert_allclose(vector, np.arange(1, 129) / np.linalg.norm(np.arange(1, 129)), atol=1e-3)
    assert abs(np.linalg.norm(vector) - 1) < 1e-6


@pytest.mark.parametrize("user", ["a/b", "a/embeddings/b", "Zoë 🦊", "50%", "?#&=+", "..x", "a b", "\\", "x" * 128])
def test_any_user_id_works_in_a_path(serving: Serving, user: str) -> None:
    serving.add(user)
    assert serving.client.get(f"/v1/users/{quote(user, safe='')}/embeddings/churn").json()["user_id"] == user


def test_slashes_need_no_escape(serving: Serving) -> None:
    serving.add("tenant/1/anna")
    assert serving.client.get("/v1/users/tenant/1/anna/embeddings/churn").json()["user_id"] == "tenant/1/anna"


def test_min_offset_waits_until_covered(serving: Serving) -> None:
    serving.add("anna", covered=1)
    timer = threading.Timer(0.3, lambda: serving.add("anna", covered=5))
    timer.start()
    started = time.monotonic()
    response = serving.client.get("/v1/users/anna/embeddings/churn?min_offset=raw:0:5&timeout_ms=10000")
    timer.join()
    assert response.json()["covers"] == {"raw:0": 5}
    assert 0.2 < time.monotonic() - started < 9


def test_min_offset_waits_for_a_user_nobody_knows_yet(serving: Serving) -> None:
    timer = threading.Timer(0.2, lambda: serving.add("new", covered=5))
    timer.start()
    response = serving.client.get("/v1/users/new/embeddings/churn?min_offset=raw:0:5&timeout_ms=10000")
    timer.join()
    assert response.status_code == 200


def test_min_offset_means_the_topic_that_is_there(serving: Serving) -> None:
    """A3: of a raw topic that was made anew, offsets of the old one answered at once."""
    serving.add("anna", covered=1000)
    path = "/v1/users/anna/embeddings/churn?timeout_ms=0&min_offset="
    assert serving.client.get(path + "raw:0:5").status_code == 200
    serving.sources["raw"] = "raw#0123abcd"
    assert serving.client.get(path + "raw:0:5").status_code == 409
    serving.add("anna", covered=5, source="raw#0123abcd:0")
    for name in ("raw", "raw%230123abcd"):
        assert serving.client.get(f"{path}{name}:0:5").status_code == 200
        assert serving.client.get(f"{path}{name}:0:6").status_code == 409


@pytest.mark.parametrize("user", ["anna", "nobody"])
def test_min_offset_not_reached_is_409_with_what_is_covered(serving: Serving, user: str) -> None:
    serving.add("anna", covered=1)
    response = serving.client.get(
        f"/v1/users/{user}/embeddings/churn?min_offset=raw:0:5&min_offset=raw:1:0&timeout_ms=50"
    )
    body = assert_problem(response, "not_covered")
    assert body["covered"] == ({"raw:0": 1} if user == "anna" else {})


@pytest.mark.parametrize("value", ["", "raw", "raw:0", "raw:0:", "raw:0:-1", "raw:0:1.5", "a b:0:1", "raw:0:٣"])
def test_a_malformed_min_offset_is_refused(serving: Serving, value: str) -> None:
    serving.add("anna")
    assert_problem(
        serving.client.get("/v1/users/anna/embeddings/churn", params={"min_offset": value}), "request_invalid"
    )


# neighbours


def test_neighbors_of_a_user(serving: Serving) -> None:
    serving.add("anna", [1, 0] * 64)
    serving.add("bert", [1, 0.5] * 64)
    serving.add("carl", [-1, 0] * 64)
    serving.add("dora", [1, 0.5] * 64)
    body = serving.client.post("/v1/scenarios/churn/neighbors", json={"user_id": "anna", "k": 5}).json()
    (result,) = body["results"]
    assert [n["user_id"] for n in result["neighbors"]] == ["bert", "dora", "carl"]
    assert result["neighbors"][0]["score"] == result["neighbors"][1]["score"] == pytest.approx(0.894, abs=1e-3)
    assert result["neighbors"][2]["score"] == pytest.approx(-1, abs=1e-6)
    assert (body["exact"], body["missing"], result["eligible"], body["applied"]) == (True, [], 3, {"0": 5})
    again = serving.client.post(
        "/v1/scenarios/churn/neighbors", json={"user_id": "anna", "k": 1, "exclude_self": False}
    ).json()
    assert again["results"][0]["neighbors"] == [{"user_id": "anna", "score": pytest.approx(1.0)}]
    assert again["results"][0]["neighbors"][0]["score"] <= 1


def test_many_users_vectors_and_filters(serving: Serving) -> None:
    for i in range(30):
        serving.add(f"u{i:02}")
    path = "/v1/scenarios/churn/neighbors"
    many = serving.client.post(path, json={"user_ids": ["u01", "nobody", "u02", "u01"], "k": 3}).json()
    assert [r["user_id"] for r in many["results"]] == ["u01", "u02", "u01"]
    assert many["missing"] == ["nobody"]
    full = serving.client.post(path, json={"vector": [1.0] * 128, "k": 30}).json()["results"][0]
    order = [n["user_id"] for n in full["neighbors"]]
    assert len(order) == 30
    assert full["user_id"] is None
    denied = serving.client.post(path, json={"vectors": [[1.0] * 128], "k": 5, "deny": order[:7]}).json()
    assert [n["user_id"] for n in denied["results"][0]["neighbors"]] == order[7:12]
    allow = [order[20], order[3], order[3], "nobody"]
    allowed = serving.client.post(path, json={"vector": [2.0] * 128, "allow": allow}).json()["results"][0]
    assert [n["user_id"] for n in allowed["neighbors"]] == [order[3], order[20]]
    assert allowed["eligible"] == 2
    floor = full["neighbors"][4]["score"]
    above = serving.client.post(path, json={"vector": [1.0] * 128, "k": 30, "min_score": floor}).json()
    assert len(above["results"][0]["neighbors"]) == 5


def test_models_are_never_mixed(serving: Serving) -> None:
    for i in range(3):
        serving.add(f"old{i}", model="old")
    for i in range(5):
        serving.add(f"new{i}", model="new")
    path = "/v1/scenarios/churn/neighbors"
    of_old = serving.client.post(path, json={"user_id": "old0", "k": 100}).json()["results"][0]
    assert (of_old["model"], sorted(n["user_id"] for n in of_old["neighbors"])) == ("old", ["old1", "old2"])
    by_vector = serving.client.post(path, json={"vector": [1] * 128, "k": 100}).json()["results"][0]
    assert (by_vector["model"], len(by_vector["neighbors"])) == ("new", 5)
    assert serving.client.get("/v1/scenarios/churn").json()["models"] == {"new": 5, "old": 3}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"user_id": "a", "vector": [1.0] * 128},
        {"user_ids": []},
        {"user_ids": ["a"] * 257},
        {"user_id": "x" * 129},
        {"user_id": "a\n"},
        {"user_id": ""},
        {"user_ids": ["a", "a\x00"]},
        {"vector": [1.0] * 128, "model": "unknown"},
        {"user_id": None},
        {"user_id": 7},
        {"vector": [1.0] * 127},
        {"vector": [0.0] * 128},
        {"vector": [1e300] * 128},
        {"vector": ["a"] * 128},
        {"vectors": [[1.0] * 128, [1.0]]},
        {"user_id": "a", "k": 0},
        {"user_id": "a", "k": 1001},
        {"user_id": "a", "min_score": 1.5},
        {"user_id": "a", "model": "m"},
        {"user_id": "a", "surprise": 1},
    ],
)
def test_a_wrong_neighbors_request_is_refused(serving: Serving, body: dict[str, Any]) -> None:
    serving.add("a")
    assert_problem(serving.client.post("/v1/scenarios/churn/neighbors", json=body), "request_invalid")


def test_an_unknown_model_is_an_error_and_says_which_there_are(serving: Serving) -> None:
    """C12: it was an empty answer."""
    serving.add("a", model="here")
    body = {"vector": [1.0] * 128, "model": "nowhere"}
    problem = assert_problem(serving.client.post("/v1/scenarios/churn/neighbors", json=body), "request_invalid")
    assert "here" in problem["detail"]


def test_the_highest_min_score_finds_the_vector_itself(serving: Serving) -> None:
    """C12: rounding took some vectors' own score below 1."""
    for i in range(200):
        serving.add(f"u{i}")
    path = "/v1/scenarios/churn/neighbors"
    for i in range(200):
        vector = serving.client.get(f"/v1/users/u{i}/embeddings/churn").json()["vector"]
        body = {"vector": vector, "min_score": 1, "k": 3}
        (found,) = serving.client.post(path, json=body).json()["results"]
        assert [near["user_id"] for near in found["neighbors"]] == [f"u{i}"]


def test_what_was_sent_is_not_repeated_at_length(serving: Serving) -> None:
    """C12: an over-long key came back whole, 3 MB."""
    for body in ({"x" * 3_000_000: 1}, {"user_id": "x" * 3_000_000}, {"allow": [1] * 100_000}):
        answer = serving.client.post("/v1/scenarios/churn/neighbors", json=body)
        assert_problem(answer, "request_invalid")
        assert len(answer.content) < 5000
    for path in (f"/v1/scenarios/{'x' * 9000}", f"/v1/users/a/embeddings/{'x' * 9000}", f"/{'x' * 9000}"):
        assert len(serving.client.get(path).content) < 5000
    answer = serving.client.post("/v1/embed", json={"y" * 60_000: 1})
    assert len(answer.content) < 5000


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"vector": [NaN]}', b"[]", b"null", b'{"vector": [1e999]}'])
def test_a_body_that_is_not_a_request_is_refused(serving: Serving, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = serving.client.post("/v1/scenarios/churn/neighbors", content=content, headers=headers)
    assert_problem(response, "request_invalid")


def test_a_huge_body_is_refused_however_it_is_sent(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "LONG_BODY_BYTES", 10_000)
    for content in (b"x" * 20_000, streamed(b"x" * 1000 for _ in range(20))):
        response = serving.client.post("/v1/scenarios/churn/neighbors", content=content)
        assert_problem(response, "body_too_large")


# scenarios


def test_scenarios_and_their_export(serving: Serving) -> None:
    for i in (3, 1, 2, 5, 4):
        serving.add(f"u{i}", scenario="credit")
    listed = serving.client.get("/v1/scenarios").json()["scenarios"]
    assert [(s["name"], s["users"], s["model"]) for s in listed] == [("churn", 0, None), ("credit", 5, "m")]
    assert listed[1]["query"] == "Will it be credit?"
    seen: list[str] = []
    after: str | None = ""
    pages = 0
    while after is not None:
        page = serving.client.get("/v1/scenarios/credit/embeddings", params={"after": after, "limit": 2}).json()
        seen += [e["user_id"] for e in page["embeddings"]]
        after = page["next"]
        pages += 1
    assert seen == ["u1", "u2", "u3", "u4", "u5"]
    assert pages == 3


# one error shape


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/nowhere", "not_found"),
        ("GET", "/v1/users/anna", "not_found"),
        ("GET", "/livez/", "not_found"),
        ("POST", "/livez", "method_not_allowed"),
        ("DELETE", "/v1/scenarios", "method_not_allowed"),
        ("GET", "/v1/users/nobody/embeddings/churn", "user_unknown"),
        ("GET", "/v1/users//embeddings/churn", "request_invalid"),
        ("GET", "/v1/users/a%00/embeddings/churn", "request_invalid"),
        ("GET", f"/v1/users/{'x' * 129}/embeddings/churn", "request_invalid"),
        ("GET", "/v1/users/anna/embeddings/nope", "scenario_unknown"),
        ("GET", "/v1/scenarios/nope", "scenario_unknown"),
        ("GET", "/v1/scenarios/nope/embeddings", "scenario_unknown"),
        ("GET", "/v1/scenarios/churn/embeddings?limit=0", "request_invalid"),
        ("GET", "/v1/scenarios/churn/embeddings?limit=1001", "request_invalid"),
        ("GET", "/v1/users/anna/embeddings/churn?timeout_ms=60001", "request_invalid"),
        ("GET", "/v1/users/%FF/embeddings/churn", "user_unknown"),
    ],
)
def test_every_error_is_a_problem(serving: Serving, method: str, path: str, code: str) -> None:
    assert_problem(serving.client.request(method, path), code)


def test_an_unforeseen_error_is_a_problem_and_tells_nothing(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object, user: str) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("store.index.index.ScenarioIndex.get", broken)
    with capture_logs() as lines:
        response = serving.client.get("/v1/users/anna/embeddings/churn")
    assert_problem(response, "internal")
    assert "secret" not in response.text
    assert [(line["event"], str(line["exc_info"])) for line in lines] == [("http_failed", "secret")]


def test_a_broker_that_does_not_answer() -> None:
    def lag() -> dict[str, Any]:
        raise BrokerError("no answer", action="start it")

    serving = Serving(lag)
    body = assert_problem(serving.client.get("/v1/lag"), "lag_unavailable")
    assert (body["action"], body["cause"]) == ("start it", "broker_unreachable")
    assert "no answer" in serving.client.get("/").text


def test_an_account_that_the_broker_does_not_tell() -> None:
    def account() -> dict[str, Any]:
        raise BrokerError("not told", action="start it")

    serving = Serving(account=account)
    body = assert_problem(serving.client.get("/v1/account"), "account_unavailable")
    assert (body["action"], body["cause"]) == ("start it", "broker_unreachable")
    page = serving.client.get("/").text
    assert "not told" in page
    assert "Lag" in page


def test_nothing_is_answered_from_half_an_index(serving: Serving) -> None:
    serving.ready.clear()
    for path in ("/readyz", "/v1/scenarios", "/v1/users/anna/embeddings/churn", "/v1/scenarios/churn/embeddings"):
        assert_problem(serving.client.get(path), "not_ready")
    assert_problem(serving.client.post("/v1/scenarios/churn/neighbors", json={"user_id": "a"}), "not_ready")
    assert serving.client.get("/livez").json() == {"status": "ok", "warnings": []}
    assert serving.client.get("/").status_code == 200


def test_a_reader_that_hangs_is_not_alive(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """E14."""
    pulse.beat()
    assert serving.client.get("/livez").status_code == 200
    monkeypatch.setattr(pulse, "_last", time.monotonic() - pulse.SILENT_SECONDS - 1)
    assert_problem(serving.client.get("/livez"), "not_alive")
    pulse.beat()
    assert serving.client.get("/livez").status_code == 200


# tokens


@pytest.mark.parametrize("path", ["/livez", "/v1/scenarios", "/v1/users/anna/embeddings/churn", "/", "/nowhere"])
def test_head_is_get_without_the_body(serving: Serving, path: str) -> None:
    """C9: 405."""
    serving.add("anna")
    full, head = serving.client.get(path), serving.client.request("HEAD", path)
    assert (head.status_code, head.headers["content-type"]) == (full.status_code, full.headers["content-type"])
    assert head.content == b""
    assert "HEAD" in serving.client.post("/livez").headers["allow"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "[::1]:1", "a.localhost", "127.9.9.9"])
def test_names_of_this_machine_are_answered_to(serving: Serving, host: str) -> None:
    assert serving.client.get("/v1/scenarios", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1", "é", "10.0.0.1"]
)
def test_a_name_that_was_made_to_point_here_is_refused(serving: Serving, host: str) -> None:
    """C11: a page of another site read everything by DNS rebinding."""
    for path in ("/v1/scenarios", "/", "/metrics"):
        assert_problem(serving.client.get(path, headers={b"host": host.encode()}), "host_refused")
    for others in (Serving(insecure=True), Serving(read_token="r")):
        answer = others.client.get("/v1/scenarios", headers={b"host": host.encode(), b"authorization": b"Bearer r"})
        assert answer.status_code == 200
    assert Serving(host="mybox").client.get("/v1/scenarios", headers={"host": "MyBox:80"}).status_code == 200


def test_tokens() -> None:
    serving = Serving(read_token="reader", admin_token="admin")
    paths = ["/v1/scenarios", "/v1/users/a/embeddings/churn", "/v1/lag", "/v1/account", "/openapi.json", "/"]
    bad: list[dict[str, str]] = [
        {},
        {"authorization": "Bearer x"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer é"},
        {"authorization": "Basic é"},
        {"authorization": "Basic !"},
        {"authorization": "Basic"},
    ]
    for path in paths:
        for headers in bad:
            encoded = {key: value.encode() for key, value in headers.items()}
            response = serving.client.get(path, headers=encoded)
            assert_problem(response, "unauthorized")
            assert "Basic" in response.headers["www-authenticate"]
        for token in ("reader", "admin"):
            assert serving.client.get(path, headers={"authorization": f"Bearer {token}"}).status_code in (200, 404)
        assert serving.client.get(path, auth=("anybody", "reader")).status_code in (200, 404)
        assert_problem(serving.client.get(path, auth=("reader", "x")), "unauthorized")
    for path in ("/livez", "/readyz", "/metrics"):
        assert serving.client.get(path).status_code == 200
    assert Serving(admin_token="admin").client.get("/v1/scenarios").status_code == 200


# lag, metrics, console, OpenAPI


def test_lag_tells_freshness(serving: Serving) -> None:
    serving.accept("anna", 3)
    body = serving.client.get("/v1/lag").json()
    assert body["lag_messages"] == 0
    assert (body["freshness"]["pending_events"], body["freshness"]["all"]["count"]) == (1, 0)
    assert body["freshness_seconds"] is None
    serving.tracker.samples.add([1.0, 3.0])
    assert serving.client.get("/v1/lag").json()["freshness_seconds"] == {"p50": 2.0, "p99": pytest.approx(2.98)}


def test_metrics_carry_templates_never_users(serving: Serving) -> None:
    serving.add("secret-user")
    serving.client.get("/v1/users/secret-user/embeddings/churn")
    serving.client.get("/wp-admin/secret-path")
    serving.client.request("BREW", "/livez")
    text = serving.client.get("/metrics").text
    assert 'route="/v1/users/{user:path}/embeddings/{scenario}",status="200"' in text
    assert 'route="(none)",status="404"' in text
    assert "secret" not in text
    assert "BREW" not in text


def test_console_renders_without_scripts_and_escapes(serving: Serving) -> None:
    evil = "<script>alert(1)</script>"
    serving.add(evil, [1, 0] * 64)
    serving.add("bert", [1, 1] * 64)
    page = serving.client.get("/")
    assert '<meta http-equiv="refresh"' in page.text
    assert "Will it be churn?" in page.text
    assert "<form" in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    found = serving.client.get("/", params={"user": "bert", "scenario": "churn"})
    assert "refresh" not in found.text
    assert quote(evil, safe="") in found.text
    for text in (page.text, found.text, serving.client.get("/", params={"user": evil, "scenario": evil}).text):
        assert "<script" not in text
    style = re.search(r"<style>(.*)</style>", page.text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"'sha256-{digest}'" in page.headers["content-security-policy"]


def test_console_shows_how_many_events_carry_each_field(serving: Serving) -> None:
    """A1."""
    assert "Not reported yet" in serving.client.get("/").text
    serving.fields.put("bill", 1_790_000_000_000, 1000, {"properties.<sku>": 0, "amount": 999, "channel": 290})
    page = serving.client.get("/").text
    rows = [re.sub("<[^>]+>", "|", row) for row in re.findall(r"<tr>(.*?)</tr>", page) if "bill" in row]
    shown = [[cell for cell in row.split("|") if cell][1:4] for row in rows]
    assert shown == [
        ["properties.&lt;sku&gt;", "0 %", "1,000"],
        ["amount", "99 %", "1,000"],
        ["channel", "29 %", "1,000"],
    ]
    assert page.count('class="warn"') == 1
    assert "Not reported yet" not in page


def test_console_shows_how_many_users_are_left() -> None:
    """D4."""
    row = {"role": "worker", "group": "as.worker", "lag_messages": 970_000, "lag_seconds": 61.5, "status": "ok"}
    page = Serving(lambda: {"groups": [{**row, "users_left": 2200, "drain_seconds": 84.0}]}).client.get("/").text
    (shown,) = [re.sub("<[^>]+>", "|", found) for found in re.findall(r"<tr>(.*?)</tr>", page) if "as.worker" in found]
    assert [cell for cell in shown.split("|") if cell] == [
        "worker",
        "as.worker",
        "970,000",
        "61.5",
        "2,200",
        "84",
        "ok",
    ]


def test_the_account_is_served_and_shown() -> None:
    """D5, D6: what was refused, skipped and repeated is where people look."""
    counts = RawCounts(1_790_000_000_000, 0, {"bill": 90}, {"invalid_json": 7, "no_content": 1200}, {"where": 3})
    processed = Account({"<raw>:0": SourceAccount(1_790_000_000_000, 9, {"bill": {"applied": 80, "duplicate": 8}})})
    report = account_of(
        {("<raw>", 0): RawPartition(1300, counts, 0, 1311)}, [ProcessedPartition(processed, 4, 5, 17)], at=1
    )
    serving = Serving(lambda: {"groups": [], "refused": 1207}, lambda: report.to_dict())
    assert serving.client.get("/v1/account").json() == json.loads(json.dumps(report.to_dict()))
    page = serving.client.get("/").text
    assert "refused: 1,207; see below" in page
    rows = [re.sub("<[^>]+>", "|", row) for row in re.findall(r"<tr>(.*?)</tr>", page) if "&lt;raw&gt;" in row]
    assert [[cell for cell in row.split("|") if cell] for row in rows] == [
        [
            "&lt;raw&gt;",
            "1,311",
            "90",
            "no_content 1,200, invalid_json 7",
            "where 3",
            "0",
            "11",
            "2026-09-21 14:13:20 UTC",
        ],
        ["&lt;raw&gt;", "bill", "90", "80", "8", "0", "0", "0", "0", "0", "2"],
    ]
    assert "published 1,311 = 90 accepted + 1,207 refused + 3 skipped + 11 not yet read" in page
    assert "accepted 90 = 80 new + 8 duplicates + 2 not yet processed" in page
    assert "does not add up" not in page
    wrong = Serving(account=lambda: report.to_dict() | {"adds_up": False}).client.get("/").text
    assert "does not add up" in wrong


def test_openapi_is_the_committed_one(serving: Serving) -> None:
    committed = json.loads(Path(__file__).with_name("openapi.json").read_text())
    assert description() == committed, "renew it: python -m store.http.openapi > tests/store/http/openapi.json"
    assert serving.client.get("/openapi.json").json() == committed


def test_every_reference_of_the_description_leads_somewhere() -> None:
    """C12: HTTPValidationError did not."""
    text = json.dumps(description())
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert names
    assert names <= description()["components"]["schemas"].keys()


def test_every_code_and_route_is_documented() -> None:
    text = DOCS.read_text()
    for code, kind in KINDS.items():
        assert f"`{code}` | {kind.status} |" in text
    for path in description()["paths"]:
        assert path in text
