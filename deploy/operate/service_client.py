"""The running service, over HTTP: where it is, and its answers as JSON."""

from __future__ import annotations

import ssl
import urllib.parse
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from deploy.serve_file import find, serve_path
from store.base.errors import AnchorstreamError, NotFoundError

if TYPE_CHECKING:
    from deploy.settings.config import Settings

TIMEOUT_SECONDS = 30.0
CHANGE_SECONDS = 60.0
"""A change is answered once the broker has taken it and serve has heard of it; each may take 15 s."""
PAGE = 1000
IDLE_SECONDS = 2.0
"""A connection is used again within this; below uvicorn's 5 s, so that none is closed while a request is on its way."""


class ServiceError(AnchorstreamError):
    """The service cannot be reached, or refused a request."""

    code = "service_unreachable"


class Service:
    """HTTP calls to one running `serve`; any thread may make them."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._client = httpx.Client(
            headers={"accept": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {}),
            verify=ssl.create_default_context(),  # this machine's authorities, not a package's
            follow_redirects=True,
            limits=httpx.Limits(keepalive_expiry=IDLE_SECONDS),
        )

    @classmethod
    def find(cls, settings: Settings, url: str | None = None, *, admin: bool = False) -> Service:
        """The service at `url`, else the one that runs on this data directory.

        admin: for calls that change something.

        Raises:
            ServiceError: there is none, or it serves another `kafka.topic_prefix`.
        """
        read, change = settings.serve.read_token, settings.serve.admin_token
        secret = (change or read) if admin else (read or change)
        token = secret.get_secret_value() if secret else None
        return cls(url or running_url(settings.store.data_dir, settings.kafka.topic_prefix), token)

    def get(self, path: str, query: Mapping[str, str | int] | None = None) -> Any:
        """GET, decoded.

        Raises:
            NotFoundError: 404, with the service's own code.
            ServiceError: any other problem; `code` is the service's, or `service_unreachable`.
        """
        return self._call("GET", path, query=query)[1]

    def post(self, path: str, body: Mapping[str, Any], *, timeout: float = TIMEOUT_SECONDS) -> Any:
        """POST of a JSON body, decoded. timeout: seconds without a word from the service. Raises as `get`."""
        return self._call("POST", path, body, timeout=timeout)[1]

    def put(self, path: str, body: Mapping[str, Any]) -> tuple[bool, Any]:
        """PUT of a JSON body: whether it is new, and the answer. Raises as `get`."""
        status, answer = self._call("PUT", path, body, timeout=CHANGE_SECONDS)
        return status == HTTPStatus.CREATED, answer

    def delete(self, path: str) -> None:
        """DELETE. Raises as `get`."""
        self._call("DELETE", path, timeout=CHANGE_SECONDS)

    def scenarios(self) -> dict[str, dict[str, Any]]:
        """Every scenario that is served, by name. Raises as `get`."""
        return {scenario["name"]: scenario for scenario in self.get("/v1/scenarios")["scenarios"]}

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str | int] | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> tuple[int, Any]:
        try:
            answer = self._client.request(method, self.url + path, params=query, json=body, timeout=timeout)
            if answer.is_success:
                return answer.status_code, None if answer.status_code == HTTPStatus.NO_CONTENT else answer.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise ServiceError(
                f"no answer from {self.url}: {error}",
                action="start it with `anchorstream up`, or give the right --url",
            ) from error
        raise _problem(answer)

    def embeddings(self, scenario: str) -> Iterator[dict[str, Any]]:
        """Every embedding record of a scenario, in order of user id, page by page."""
        after = ""
        while True:
            page = self.get(f"/v1/scenarios/{quote(scenario)}/embeddings", {"after": after, "limit": PAGE})
            yield from page["embeddings"]
            after = page.get("next") or ""
            if not after:
                return


def running_url(data_dir: Path, prefix: str) -> str:
    """Address of the service that runs on a data directory, with these topics. Raises ServiceError."""
    try:
        found = find(data_dir)
        if found is not None:
            url, serves = str(found["url"]), str(found.get("topic_prefix", prefix))
            if serves == prefix:
                return url
            raise ServiceError(
                f"the service on {data_dir} serves kafka.topic_prefix = {serves!r}, this configuration has {prefix!r}",
                action=f"take the configuration that it was started with ({data_dir / 'run' / 'config.toml'} where "
                "`anchorstream up` did), give this one a store.data_dir of its own, or name its service with --url",
                code="other_topic_prefix",
            )
    except (OSError, ValueError, KeyError, TypeError):
        pass  # half a file is none
    raise ServiceError(
        f"no service is running on {data_dir} (there is no {serve_path(data_dir)})",
        action="start it with `anchorstream up --config …`, or name one with --url",
    )


def quote(part: str) -> str:
    """A user id or name as one part of a path."""
    return urllib.parse.quote(part, safe="")


def _problem(answer: httpx.Response) -> AnchorstreamError:
    status = answer.status_code
    try:
        problem = answer.json()
        detail, code = str(problem.get("detail") or problem.get("title")), str(problem["code"])
        action = str(problem.get("action") or "")
    except (ValueError, KeyError, AttributeError):
        detail, code, action = f"HTTP {status} {answer.reason_phrase}", f"http_{status}", ""
    if status in (401, 403) and not action:
        action = (
            "set serve.read_token (ANCHORSTREAM_SERVE__READ_TOKEN) to the service's, and serve.admin_token for changes"
        )
    kind = NotFoundError if status == HTTPStatus.NOT_FOUND else ServiceError
    return kind(detail, action=action, code=code)
