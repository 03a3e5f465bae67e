"""Errors of the HTTP service: RFC 9457 problem+json, always this shape, `code` is stable.

{"type": "about:blank", "title": "Not covered", "status": 409, "code": "not_covered", "detail": "…", …}
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from store.base.errors import AnchorstreamError, NotFoundError

MEDIA_TYPE = "application/problem+json"
MAX_DETAIL = 2000
MAX_ERRORS = 10
"""Of one request; the others are not told."""
RETRY_SECONDS = 1
"""`Retry-After` of `busy`."""


class Kind(NamedTuple):
    """A kind of problem."""

    status: int
    title: str


KINDS: dict[str, Kind] = {
    "request_invalid": Kind(422, "The request is invalid"),
    "body_too_large": Kind(413, "The body is too large"),
    "unauthorized": Kind(401, "A token is needed"),
    "forbidden": Kind(403, "The token is not enough"),
    "host_refused": Kind(421, "The service does not answer to this name"),
    "http_invalid": Kind(400, "This is not HTTP"),
    "request_timeout": Kind(408, "The request did not come in time"),
    "not_found": Kind(404, "There is no such page"),
    "method_not_allowed": Kind(405, "The method is not allowed here"),
    "user_unknown": Kind(404, "The user has no embedding"),
    "scenario_unknown": Kind(404, "There is no such scenario"),
    "scenario_configured": Kind(409, "The scenario is of the configuration"),
    "scenario_limit": Kind(409, "There are too many scenarios"),
    "registry_unavailable": Kind(503, "The scenarios cannot be changed now"),
    "not_covered": Kind(409, "The offset is not covered yet"),
    "prompt_missing": Kind(404, "The model has no such soft prompt"),
    "embed_timeout": Kind(504, "No worker answered in time"),
    "restoring": Kind(503, "The worker of the user is restoring its state"),
    "busy": Kind(503, "Too many requests are waiting"),
    "embed_unsent": Kind(503, "The query could not be sent to a worker"),
    "not_ready": Kind(503, "The indexes are being restored"),
    "not_alive": Kind(503, "The process hangs"),
    "lag_unavailable": Kind(503, "The broker did not tell its offsets"),
    "account_unavailable": Kind(503, "The broker did not tell what was counted"),
    "internal": Kind(500, "An internal error"),
}
"""Every code, as listed in docs/http.md."""


class Problem(BaseModel):
    """Body of every error. Some carry more: `errors` of request_invalid, `covered` of not_covered, `action`."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str


class ProblemError(Exception):
    """Answered as a problem. `code` is a key of KINDS; `members` are added to the body."""

    def __init__(self, code: str, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.members = members


def invalid(faults: Sequence[Any], *, inside: str = "") -> ProblemError:
    """What pydantic found, without the input itself: it may be large, or a secret.

    inside: put before each place, such as `body`.
    """
    errors = []
    for fault in faults[:MAX_ERRORS]:
        where = ".".join(
            f"{part:.100}" if isinstance(part, str) else str(part) for part in (inside, *fault["loc"]) if part != ""
        )
        errors.append({"where": where, "message": f"{fault['msg']:.300}"})
    detail = "; ".join(f"{e['where']}: {e['message']}" for e in errors[:3])
    return ProblemError("request_invalid", detail, errors=errors)


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


def as_answer(exc: ProblemError) -> JSONResponse:
    """The response of a problem that was raised."""
    return problem(exc.code, exc.detail, **exc.members)


def problem(code: str, detail: str, *, headers: dict[str, str] | None = None, **members: Any) -> JSONResponse:
    """The response of a problem."""
    kind = KINDS[code]
    headers = {**({"retry-after": str(RETRY_SECONDS)} if code == "busy" else {}), **(headers or {})}
    if code == "unauthorized":
        headers["www-authenticate"] = 'Basic realm="anchorstream", Bearer'
    detail = detail if len(detail) <= MAX_DETAIL else f"{detail[:MAX_DETAIL]}…"  # it repeats what was sent
    body = Problem(title=kind.title, status=kind.status, code=code, detail=detail, **members)
    return JSONResponse(body.model_dump(), kind.status, headers, MEDIA_TYPE)


def documented(
    *codes: str, open_to_all: bool = False, changes: bool = False, body: bool = False
) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that can answer these problems, and those that every route of its kind can.

    open_to_all: needs no token. changes: needs the admin's. body: reads one.
    """
    codes = (*codes, "host_refused", "busy")
    codes = codes if open_to_all else (*codes, "unauthorized")
    codes = (*codes, "forbidden") if changes else codes
    codes = (*codes, "body_too_large", "request_timeout", "request_invalid") if body else codes
    codes = tuple(dict.fromkeys(codes))
    return {
        status: {
            "description": " / ".join(code for code in codes if KINDS[code].status == status),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted({KINDS[code].status for code in codes})
    }


def install(app: FastAPI) -> None:
    """Answer every error of the framework and of ours as a problem; what nobody foresaw is the middleware's."""
    app.add_exception_handler(ProblemError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(AnchorstreamError, _expected)


async def _ours(_: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, ProblemError)
    return as_answer(exc)


async def _invalid(_: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)
    return as_answer(invalid(exc.errors()))


async def _framework(_: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(exc.status_code, "request_invalid")
    headers = {name.lower(): value for name, value in (exc.headers or {}).items()}
    if "GET" in headers.get("allow", "").split(", "):
        headers["allow"] += ", HEAD"
    detail = HTTPStatus(exc.status_code).description or str(exc.detail)
    return problem(code, detail, headers=headers)


async def _expected(_: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, AnchorstreamError)
    code = "not_found" if isinstance(exc, NotFoundError) else "internal"
    return problem(code, exc.detail, action=exc.action, cause=exc.code)
