"""`scenarios put --wait`, and commands over all scenarios, against a service that a test scripts."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deploy import cli
from deploy.commands import scenarios as command
from deploy.operate.service_client import Service, ServiceError
from deploy.settings.config import load
from store.base.errors import NotFoundError

PATH = "/v1/scenarios/loan"


def part(done: int, *, error: str | None = None, complete: bool = False) -> dict[str, Any]:
    return {"partition": 0, "model": "m", "done": done, "total": 4, "complete": complete, "error": error}


def scenario(back_fill: dict[str, Any] | None, name: str = "loan") -> dict[str, Any]:
    return {
        "name": name, "query": "Loan?", "prompt": None, "registered": True, "model": "m", "users": 4,
        "back_fill": back_fill,
    }  # fmt: skip


def progress(done: int, *, complete: bool = False, error: str | None = None) -> dict[str, Any]:
    return {"done": done, "total": 4, "complete": complete, "partitions": [part(done, error=error, complete=complete)]}


class Scripted:
    """Answers GET PATH by what comes next, the last one for ever; remembers what was asked."""

    def __init__(self, *answers: dict[str, Any] | None) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(("GET", self.path, self.headers["authorization"]))
                if self.path == "/v1/scenarios":
                    names = ("churn", "loan", "churn@next")
                    return self.answer(200, {"scenarios": [scenario(None, name) for name in names]})
                if self.path.startswith("/v1/users/anna/embeddings/churn"):
                    return self.answer(200, {"scenario": self.path.rpartition("/")[2]})
                if self.path != PATH:
                    return self.answer(404, {"code": "user_unknown", "detail": f"nobody for {self.path}"})
                found = outer.answers[0] if len(outer.answers) == 1 else outer.answers.pop(0)
                if found is None:
                    return self.answer(404, {"code": "scenario_unknown", "detail": "retired"})
                return self.answer(200, found)

            def do_PUT(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.asked.append(("PUT", self.path, self.headers["authorization"]))
                self.answer(201, {**scenario(None), **body})

            def do_DELETE(self) -> None:
                outer.asked.append(("DELETE", self.path, self.headers["authorization"]))
                self.send_response(204)
                self.end_headers()

            def answer(self, status: int, body: Any) -> None:
                raw = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def scripted() -> Iterator[list[Scripted]]:
    made: list[Scripted] = []
    yield made
    for server in made:
        server.close()


def serving(scripted: list[Scripted], *answers: dict[str, Any] | None) -> Scripted:
    scripted.append(Scripted(*answers))
    return scripted[-1]


def test_it_waits_until_the_back_fill_is_complete(scripted: list[Scripted]) -> None:
    steps = [scenario(None), scenario(progress(0)), scenario(progress(4)), scenario(progress(4, complete=True))]
    server = serving(scripted, *steps, scenario(None))
    found = command.wait_for_back_fill(Service(server.url), PATH, quiet=True, poll_seconds=0.01)
    assert found == steps[-1]
    assert len(server.asked) == 4


def test_a_fault_of_a_worker_ends_the_wait(scripted: list[Scripted]) -> None:
    fault = "prompt_missing: no prompt 'loan'"
    server = serving(scripted, scenario(progress(1)), scenario(progress(1, error=fault)))
    with pytest.raises(ServiceError, match="no prompt 'loan'") as failed:
        command.wait_for_back_fill(Service(server.url), PATH, quiet=True, poll_seconds=0.01)
    assert failed.value.code == "back_fill_failed"


def test_retired_while_somebody_waits(scripted: list[Scripted]) -> None:
    server = serving(scripted, scenario(progress(1)), None)
    with pytest.raises(NotFoundError) as failed:
        command.wait_for_back_fill(Service(server.url), PATH, quiet=True, poll_seconds=0.01)
    assert failed.value.code == "scenario_unknown"


def test_silent_workers_are_mentioned_once(
    scripted: list[Scripted], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "SILENCE_SECONDS", 0.0)
    server = serving(scripted, *[scenario(None)] * 4, scenario(progress(4, complete=True)))
    command.wait_for_back_fill(Service(server.url), PATH, quiet=True, poll_seconds=0.01)
    assert capsys.readouterr().err.count("no worker has reported yet") == 1


@pytest.mark.parametrize(
    ("back_fill", "text", "share"),
    [
        (None, "not reported", -1.0),
        (progress(1), "1 of 4 users", 0.25),
        (progress(4, complete=True), "complete", 1.0),
        ({"done": 0, "total": 0, "complete": False, "partitions": []}, "0 of 0 users", 0.0),
    ],
)
def test_progress_in_words(back_fill: dict[str, Any] | None, text: str, share: float) -> None:
    assert command.back_fill(scenario(back_fill)) == text
    assert command.progress_of(back_fill)[0] == share


def test_changes_carry_the_admin_token_and_readings_the_other(
    scripted: list[Scripted], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serving(scripted, scenario(progress(4, complete=True)))
    config = tmp_path / "a.toml"
    config.write_text('[serve]\nread_token = "read"\nadmin_token = "admin"\n')
    options = ["--url", server.url, "--config", str(config), "--json"]
    assert cli.run(["scenarios", "put", "loan", "--query", "Loan?", *options]) == 0
    assert json.loads(capsys.readouterr().out)["created"] is True
    assert cli.run(["scenarios", "retire", "loan", *options]) == 0
    assert json.loads(capsys.readouterr().out) == {"retired": "loan"}
    assert cli.run(["scenarios", "list", *options]) == 0
    assert server.asked == [
        ("PUT", PATH, "Bearer admin"),
        ("DELETE", PATH, "Bearer admin"),
        ("GET", "/v1/scenarios", "Bearer read"),
    ]
    config.write_text('[serve]\nread_token = "read"\n')
    assert Service.find(load(config), server.url, admin=True).get(PATH)
    assert server.asked[-1][2] == "Bearer read"


def test_all_scenarios_are_asked_but_candidates_and_those_without_the_user_are_named(
    scripted: list[Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    server = serving(scripted, None)
    assert cli.run(["embedding", "anna", "--url", server.url, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == [{"scenario": "churn"}]
    assert "embeddings/loan" in said.err
    assert cli.run(["embedding", "anna", "--scenario", "churn@next", "--url", server.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"scenario": "churn%40next"}
    assert cli.run(["embedding", "nobody", "--url", server.url, "--json"]) == 1
    assert json.loads(capsys.readouterr().err)["error"] == "user_unknown"
