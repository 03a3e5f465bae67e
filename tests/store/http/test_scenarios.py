"""Scenarios over HTTP: those registered, candidates', their back-fills, and what is retired under a request."""

from __future__ import annotations

import base64
import threading
from dataclasses import replace

import pytest

from store.base.errors import AnchorstreamError, BrokerError, NotFoundError, ScenarioError, TopicError
from store.base.settings import ScenarioSettings
from store.records.back_fill import BackFillRecord
from store.records.scenario import Registered, asked
from tests.store.http.test_service import assert_problem
from tests.support.serving import Serving

LOAN = Registered(ScenarioSettings(query="Will it ask for a loan?", prompt="loan"), 1001, 5)


@pytest.fixture
def serving() -> Serving:
    return Serving()


class Registry:
    """A registrar over a catalog alone; the real one is tested in tests/stream/scenarios/test_registrar.py."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self.failure: AnchorstreamError | None = None

    def put(self, name: str, settings: ScenarioSettings) -> bool:
        if self.failure is not None:
            raise self.failure
        new = name not in self._serving.catalog
        self._serving.serve(name, Registered(settings, 1001, 1))
        return new

    def retire(self, name: str) -> None:
        if self.failure is not None:
            raise self.failure
        if name not in self._serving.catalog:
            raise NotFoundError(f"there is no scenario {name!r}", code="scenario_unknown")
        self._serving.catalog.remove(name)


def registering(**settings: object) -> tuple[Serving, Registry]:
    serving = Serving(**settings)
    registry = Registry(serving)
    serving.app.state.service = replace(serving.service, registrar=registry)
    return serving, registry


def test_put_registers_changes_and_delete_retires() -> None:
    client = registering()[0].client
    created = client.request("PUT", "/v1/scenarios/loan", json={"query": "Will it ask for a loan?"})
    assert created.status_code == 201
    assert created.json() == client.get("/v1/scenarios/loan").json()
    assert (created.json()["registered"], created.json()["prompt"], created.json()["users"]) == (True, None, 0)
    changed = client.request("PUT", "/v1/scenarios/loan", json={"query": "Soon?", "prompt": "loan"})
    assert changed.status_code == 200
    assert (changed.json()["query"], changed.json()["prompt"]) == ("Soon?", "loan")
    gone = client.request("DELETE", "/v1/scenarios/loan")
    assert (gone.status_code, gone.content) == (204, b"")
    assert_problem(client.get("/v1/scenarios/loan"), "scenario_unknown")
    assert_problem(client.request("DELETE", "/v1/scenarios/loan"), "scenario_unknown")
    assert_problem(client.post("/v1/scenarios/loan/neighbors", json={"user_id": "anna"}), "scenario_unknown")


@pytest.mark.parametrize(
    ("name", "body", "where"),
    [
        ("Loan", {"query": "q"}, "path.scenario"),
        ("1loan", {"query": "q"}, "path.scenario"),
        ("l" * 64, {"query": "q"}, "path.scenario"),
        ("loan@next", {"query": "q"}, "path.scenario"),
        ("loan%0A", {"query": "q"}, "path.scenario"),
        ("loan", {}, "body.query"),
        ("loan", {"query": ""}, "body.query"),
        ("loan", {"query": " \n"}, "body.query"),
        ("loan", {"query": "q" * 2001}, "body.query"),
        ("loan", {"query": "Will it\x00?"}, "body.query"),
        ("loan", {"query": "Will it\x1b[31m?"}, "body.query"),
        ("loan", {"query": "Will\nit?"}, "body.query"),
        ("loan", {"query": "Will\u2028it?"}, "body.query"),
        ("loan", {"query": "q", "prompt": "p\x7f"}, "body.prompt"),
        ("loan", {"query": 7}, "body.query"),
        ("loan", {"query": "q", "prompt": ""}, "body.prompt"),
        ("loan", {"query": "q", "prompt": "p" * 129}, "body.prompt"),
        ("loan", {"query": "q", "model": "m"}, "body.model"),
        ("loan", [], "body"),
    ],
)
def test_a_bad_registration_names_the_field(name: str, body: object, where: str) -> None:
    serving, _ = registering()
    answer = assert_problem(serving.client.request("PUT", f"/v1/scenarios/{name}", json=body), "request_invalid")
    assert [error["where"] for error in answer["errors"]] == [where]
    assert "loan" not in serving.catalog


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (ScenarioError("'x' is of the configuration", action="change the file"), "scenario_configured"),
        (ScenarioError("there are 256", code="scenario_limit"), "scenario_limit"),
        (BrokerError("no answer", action="look", code="delivery_failed"), "registry_unavailable"),
        (TopicError("has 3 partitions"), "registry_unavailable"),
    ],
)
def test_what_the_registry_refuses_is_a_problem(method: str, failure: AnchorstreamError, code: str) -> None:
    serving, registry = registering()
    registry.failure = failure
    body = {"json": {"query": "q"}} if method == "PUT" else {}
    found = assert_problem(serving.client.request(method, "/v1/scenarios/churn", **body), code)
    assert found["action"] == failure.action
    if code == "registry_unavailable":
        assert found["cause"] == failure.code


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_changes_need_the_admin_token(method: str) -> None:
    serving, _ = registering(read_token="r", admin_token="a")
    body = {"json": {"query": "q"}} if method == "PUT" else {}

    def ask(authorization: str) -> int:
        headers = {"authorization": authorization} if authorization else {}
        return serving.client.request(method, "/v1/scenarios/churn", headers=headers, **body).status_code

    assert [ask(""), ask("Bearer r"), ask("Bearer x")] == [401, 403, 401]
    assert ask("Bearer a") in (200, 204)
    only_read, _ = registering(read_token="r")
    assert only_read.client.request(method, "/v1/scenarios/churn", **body).status_code == 401
    answer = only_read.client.request(method, "/v1/scenarios/churn", headers={"authorization": "Bearer r"}, **body)
    assert answer.status_code in (200, 204)
    only_admin, _ = registering(admin_token="a")
    assert only_admin.client.get("/v1/scenarios/churn").status_code == 200
    assert only_admin.client.request(method, "/v1/scenarios/churn", **body).status_code == 401
    basic = base64.b64encode(b"me:a").decode()
    answer = only_admin.client.request(
        method, "/v1/scenarios/churn", headers={"authorization": f"Basic {basic}"}, **body
    )
    assert answer.status_code in (200, 204)


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_nothing_is_changed_while_the_registry_is_still_read(method: str, serving: Serving) -> None:
    body = {"json": {"query": "q"}} if method == "PUT" else {}
    assert_problem(serving.client.request(method, "/v1/scenarios/churn", **body), "not_ready")
    starting, _ = registering()
    starting.ready.clear()
    assert_problem(starting.client.request(method, "/v1/scenarios/churn", **body), "not_ready")


def report(partition: int, *, complete: bool, error: str = "", registration: int = 1001) -> BackFillRecord:
    return BackFillRecord("loan", partition, registration, "m", 2, 3, complete, 7, 5, error)


def test_a_scenario_tells_whether_it_is_registered_and_how_far_its_back_fill_is(serving: Serving) -> None:
    serving.serve("loan", LOAN)
    body = serving.client.get("/v1/scenarios/loan").json()
    assert (body["query"], body["prompt"], body["registered"]) == ("Will it ask for a loan?", "loan", True)
    assert body["back_fill"] is None
    serving.board.put(report(1, complete=True))
    serving.board.put(report(0, complete=True, registration=1000))
    of_one = {"partition": 1, "model": "m", "done": 2, "total": 3, "complete": True, "error": None, "updated_at": 7}
    body = serving.client.get("/v1/scenarios/loan").json()
    assert body["back_fill"] == {"done": 2, "total": 3, "complete": False, "partitions": [of_one]}
    serving.board.put(report(0, complete=True))
    serving.board.confirm("loan", LOAN, frozenset({"m"}))
    listed = {s["name"]: s for s in serving.client.get("/v1/scenarios").json()["scenarios"]}
    assert (listed["loan"]["back_fill"]["done"], listed["loan"]["back_fill"]["complete"]) == (4, True)
    assert listed["churn"]["registered"] is False
    assert listed["churn"]["back_fill"] is None


def test_a_worker_of_another_query_is_told_wherever_its_answers_are(serving: Serving) -> None:
    """A query that was changed in the configuration of serve alone was served as complete."""
    old, new = (asked(ScenarioSettings(query=text)) for text in ("Will it be what?", "Will it be churn?"))
    serving.add("anna")
    serving.add("bert")
    client = serving.client
    for partition, what in ((0, old), (1, new)):
        serving.board.put(BackFillRecord("churn", partition, 0, "m", 2, 2, True, 7, asked=what))
    assert serving.board.reported_done("churn", serving.catalog["churn"].entry) is None
    assert client.get("/v1/scenarios/churn").json()["other_query"] == [0]
    assert client.get("/v1/scenarios/credit").json()["other_query"] == []
    assert client.get("/v1/users/anna/embeddings/churn").json()["other_query"]
    near = client.post("/v1/scenarios/churn/neighbors", json={"user_id": "anna", "k": 1}).json()
    assert near["other_query"]
    assert client.get("/v1/scenarios/churn/embeddings").json()["embeddings"][0]["other_query"]
    assert client.get("/v1/lag").json()["other_query"] == {"churn": [0]}
    ready = client.get("/readyz")
    assert ready.status_code == 200
    (warning,) = ready.json()["warnings"]
    assert "churn: the workers of partitions 0 compute another query" in warning
    assert "another query in the workers of partitions 0" in client.get("/").text
    for what in (new, ""):  # started anew with the new query; a worker of an earlier version says nothing
        serving.board.put(BackFillRecord("churn", 0, 0, "m", 2, 2, True, 8, asked=what))
        assert serving.board.reported_done("churn", serving.catalog["churn"].entry) == {"m"}
        assert client.get("/readyz").json()["warnings"] == []
        assert not client.get("/v1/users/anna/embeddings/churn").json()["other_query"]


def test_a_worker_that_cannot_compute_it_says_why(serving: Serving) -> None:
    serving.serve("loan", LOAN)
    fault = "prompt_missing: no prompt 'loan'"
    serving.board.put(BackFillRecord("loan", 0, 1001, "", 0, 0, False, 7, 5, fault))
    (part,) = serving.client.get("/v1/scenarios/loan").json()["back_fill"]["partitions"]
    assert (part["model"], part["error"]) == (None, fault)
    assert "prompt_missing" in serving.client.get("/").text


def test_a_candidates_scenario_is_a_scenario(serving: Serving) -> None:
    serving.serve("churn@next", Registered(ScenarioSettings(query="Will it be churn?")))
    serving.add("anna", scenario="churn@next")
    serving.add("ben", scenario="churn@next")
    client = serving.client
    assert client.get("/v1/users/anna/embeddings/churn@next").json()["scenario"] == "churn@next"
    assert client.get("/v1/users/anna/embeddings/churn%40next").status_code == 200
    found = client.post("/v1/scenarios/churn@next/neighbors", json={"user_id": "anna"}).json()
    assert [near["user_id"] for near in found["results"][0]["neighbors"]] == ["ben"]
    assert len(client.get("/v1/scenarios/churn@next/embeddings").json()["embeddings"]) == 2
    assert "churn@next" in [s["name"] for s in client.get("/v1/scenarios").json()["scenarios"]]
    assert "ben" in client.get("/", params={"user": "anna", "scenario": "churn@next"}).text


@pytest.mark.parametrize("again", [False, True])
def test_a_request_that_waits_for_a_scenario_that_is_retired_is_told(serving: Serving, again: bool) -> None:
    serving.serve("loan", LOAN)

    def retire() -> None:
        serving.catalog.remove("loan")
        if again:
            serving.serve("loan", Registered(LOAN.settings, 1002, 6))

    timer = threading.Timer(0.2, retire)
    timer.start()
    answer = serving.client.get("/v1/users/anna/embeddings/loan?min_offset=raw:0:5&timeout_ms=60000")
    timer.join()
    assert_problem(answer, "scenario_unknown")


def test_the_console_tells_them_apart(serving: Serving) -> None:
    serving.serve("loan", LOAN)
    serving.board.put(report(0, complete=False))
    page = serving.client.get("/").text
    assert "Will it ask for a loan?" in page
    assert "registered" in page
    assert "2 of 3 users" in page
    assert "not reported" in page
