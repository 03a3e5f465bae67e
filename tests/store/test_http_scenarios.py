"""Scenarios over HTTP: those registered, candidates', their back-fills, and what is retired under a request."""

from __future__ import annotations

import threading

import pytest

from store.back_fill_record import BackFillRecord
from store.scenario_record import Registered
from store.settings import ScenarioSettings
from tests.store.test_http import assert_problem
from tests.support.serving import Serving

LOAN = Registered(ScenarioSettings(query="Will it ask for a loan?", prompt="loan"), 1001, 5)


@pytest.fixture
def serving() -> Serving:
    return Serving()


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
