"""The running service, over HTTP: where it is, and its answers as JSON. Standard library only."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store.base.errors import AnchorstreamError, NotFoundError

if TYPE_CHECKING:
    from deploy.settings.config import Settings

TIMEOUT_SECONDS = 30.0
CHANGE_SECONDS = 60.0
"""A change is answered once the broker has taken it and serve has heard of it; each may take 15 s."""
PAGE = 1000


class ServiceError(AnchorstreamError):
    """The service cannot be reached, or refused a request."""

    code = "service_unreachable"


class Service:
    """HTTP calls to one running `serve`."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._headers = {"accept": "application/json"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"

    @classmethod
    def find(cls, settings: Settings, url: str | None = None, *, admin: bool = False) -> Service:
        """The service at `url`, else the one that runs on this data directory.

        admin: for calls that change something.

        Raises:
            ServiceError: there is none.
        """
        read, change = settings.serve.read_token, settings.serve.admin_token
        secret = (change or read) if admin else (read or change)
        token = secret.get_secret_value() if secret else None
        return cls(url or running_url(settings.store.data_dir), token)

    def get(self, path: str, query: Mapping[str, str | int] | None = None) -> Any:
        """GET, decoded. Raises as `request`."""
        return self.request("GET", f"{path}?{urllib.parse.urlencode(query)}" if query else path)

    def post(self, path: str, body: Mapping[str, Any], *, timeout: float = TIMEOUT_SECONDS) -> Any:
        """POST of a JSON body, decoded. Raises as `request`."""
        return self.request("POST", path, body, timeout=timeout)

    def put(self, path: str, body: Mapping[str, Any]) -> tuple[bool, Any]:
        """PUT of a JSON body: whether it is new, and the answer. Raises as `request`."""
        status, answer = self._call("PUT", path, body, CHANGE_SECONDS)
        return status == HTTPStatus.CREATED, answer

    def delete(self, path: str) -> None:
        """DELETE. Raises as `request`."""
        self._call("DELETE", path, None, CHANGE_SECONDS)

    def scenarios(self) -> dict[str, dict[str, Any]]:
        """Every scenario that is served, by name. Raises as `request`."""
        return {scenario["name"]: scenario for scenario in self.get("/v1/scenarios")["scenarios"]}

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout: float = TIMEOUT_SECONDS
    ) -> Any:
        """One call.

        Args:
            timeout: seconds without a word from the service.

        Raises:
            NotFoundError: 404, with the service's own code.
            ServiceError: any other problem; `code` is the service's, or `service_unreachable`.
        """
        return self._call(method, path, body, timeout)[1]

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None, timeout: float) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = self._headers if data is None else {**self._headers, "content-type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
                return answer.status, None if answer.status == HTTPStatus.NO_CONTENT else json.load(answer)
        except urllib.error.HTTPError as error:
            raise _problem(error) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ServiceError(
                f"no answer from {self.url}: {reason}",
                action="start it with `anchorstream up`, or give the right --url",
            ) from error

    def embeddings(self, scenario: str) -> Iterator[dict[str, Any]]:
        """Every embedding record of a scenario, in order of user id, page by page."""
        after = ""
        while True:
            page = self.get(f"/v1/scenarios/{quote(scenario)}/embeddings", {"after": after, "limit": PAGE})
            yield from page["embeddings"]
            after = page.get("next") or ""
            if not after:
                return


def running_url(data_dir: Path) -> str:
    """Address of the service that runs on a data directory. Raises ServiceError."""
    path = data_dir / "run" / "serve.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["url"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ServiceError(
            f"no service is running on {data_dir} (there is no {path})",
            action="start it with `anchorstream up --config …`, or name one with --url",
        ) from None


def quote(part: str) -> str:
    """A user id or name as one part of a path."""
    return urllib.parse.quote(part, safe="")


def _problem(error: urllib.error.HTTPError) -> AnchorstreamError:
    try:
        problem = json.load(error)
        detail, code = str(problem.get("detail") or problem.get("title")), str(problem["code"])
        action = str(problem.get("action") or "")
    except (ValueError, KeyError, AttributeError):
        detail, code, action = f"HTTP {error.code} {error.reason}", f"http_{error.code}", ""
    if error.code in (401, 403) and not action:
        action = (
            "set serve.read_token (ANCHORSTREAM_SERVE__READ_TOKEN) to the service's, and serve.admin_token for changes"
        )
    kind = NotFoundError if error.code == 404 else ServiceError
    return kind(detail, action=action, code=code)
