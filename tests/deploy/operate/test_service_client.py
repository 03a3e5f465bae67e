"""The HTTP client: finds the service, carries the token, turns problems into errors with codes, reads all pages."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from deploy.operate.service_client import Service, ServiceError, quote
from deploy.settings.config import load
from store.base.errors import NotFoundError

USERS = [f"user {n:04d}/ü" for n in range(2500)]


class Handler(BaseHTTPRequestHandler):
    """Answers as serve does."""

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        if self.headers["authorization"] != "Bearer sesame":
            return self.answer(401, {"detail": "no token", "code": "unauthorized"})
        if path == "/v1/scenarios/churn/embeddings":
            after, limit = query.get("after", [""])[0], int(query["limit"][0])
            page = [user for user in USERS if user > after][:limit]
            full = len(page) == limit
            return self.answer(200, {"embeddings": [{"user_id": u} for u in page], "next": page[-1] if full else None})
        if path.startswith("/v1/users/"):
            return self.answer(200, {"user_id": unquote(path.split("/")[3])})
        if path == "/broken":
            return self.answer(500, "<html>")
        return self.answer(404, {"detail": "nobody", "code": "unknown_user"})

    def do_POST(self) -> None:
        self.answer(200, json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def answer(self, status: int, body: Any) -> None:
        raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_calls(url: str) -> None:
    service = Service(url, "sesame")
    assert service.get(f"/v1/users/{quote(USERS[0])}/embeddings/churn") == {"user_id": USERS[0]}
    assert service.post("/echo", {"a": 1}) == {"a": 1}
    assert [record["user_id"] for record in service.embeddings("churn")] == USERS


def test_problems_become_errors(url: str) -> None:
    with pytest.raises(NotFoundError) as unknown:
        Service(url, "sesame").get("/v1/nothing")
    assert (unknown.value.code, unknown.value.detail) == ("unknown_user", "nobody")
    with pytest.raises(ServiceError) as locked:
        Service(url).get("/v1/scenarios")
    assert locked.value.code == "unauthorized"
    assert "read_token" in locked.value.action
    with pytest.raises(ServiceError) as broken:
        Service(url, "sesame").get("/broken")
    assert broken.value.code == "http_500"
    for unusable in ("http://127.0.0.1:9", "localhost:8080", "http://[::1", ""):
        with pytest.raises(ServiceError, match="no answer"):
            Service(unusable).get("/")


class Leaving(Handler):
    """Hangs up after an answer that promised to stay."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        super().do_POST()
        self.close_connection = True


class LeavingServer(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Leaving)
        self.left = threading.Semaphore(0)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.left.release()


def test_a_connection_that_the_service_closed_is_not_used_again() -> None:
    """As after a restart of serve."""
    with LeavingServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        service = Service(f"http://127.0.0.1:{server.server_port}", "sesame")
        for _ in range(3):
            assert service.post("/echo", {"a": 1}) == {"a": 1}
            assert server.left.acquire(timeout=30)
        server.shutdown()
        thread.join()


def test_the_service_of_a_data_directory_is_found(url: str, tmp_path: Path) -> None:
    settings = load(None, overrides={"store": {"data_dir": str(tmp_path)}, "serve": {"read_token": "sesame"}})
    with pytest.raises(ServiceError, match="no service is running"):
        Service.find(settings)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "serve.json").write_text(json.dumps({"url": url, "pid": 1}))
    assert Service.find(settings).get("/v1/users/a/embeddings/churn") == {"user_id": "a"}
    for prefix in ("other", settings.kafka.topic_prefix):
        (tmp_path / "run" / "serve.json").write_text(json.dumps({"url": url, "pid": 1, "topic_prefix": prefix}))
        if prefix == "other":
            with pytest.raises(ServiceError, match="topic_prefix = 'other'") as caught:
                Service.find(settings)
            assert caught.value.code == "other_topic_prefix"
    assert Service.find(settings).get("/v1/users/a/embeddings/churn") == {"user_id": "a"}
