"""Bearer tokens; a browser may send one as the password of Basic authentication (any user name)."""

from __future__ import annotations

import base64
import binascii
import hmac

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from store.http.problems import ProblemError
from store.http.service import Current

_bearer = HTTPBearer(auto_error=False, description="`serve.read_token` or `serve.admin_token`, where one is set")


async def may_read(
    request: Request,
    service: Current,
    bearer: HTTPAuthorizationCredentials | None = Security(_bearer),  # noqa: B008
) -> None:
    """Dependency of everything that tells of users. Open while `serve.read_token` is not set.

    Raises:
        ProblemError: unauthorized.
    """
    settings = service.settings
    if settings.read_token is None:
        return
    given = bearer.credentials if bearer is not None else _basic_password(request.headers.get("authorization", ""))
    # both are compared, always: the time taken tells nothing
    allowed = [_equal(given, token) for token in (settings.read_token, settings.admin_token) if token is not None]
    if not any(allowed):
        raise ProblemError("unauthorized", "send `Authorization: Bearer TOKEN` with serve.read_token")


async def may_change(
    request: Request,
    service: Current,
    bearer: HTTPAuthorizationCredentials | None = Security(_bearer),  # noqa: B008
) -> None:
    """Dependency of everything that changes something. Without `serve.admin_token` who may read may change.

    Raises:
        ProblemError: unauthorized.
    """
    admin = service.settings.admin_token
    if admin is None:
        await may_read(request, service, bearer)
        return
    given = bearer.credentials if bearer is not None else _basic_password(request.headers.get("authorization", ""))
    if not _equal(given, admin):
        raise ProblemError("unauthorized", "send `Authorization: Bearer TOKEN` with serve.admin_token")


def _equal(given: str, token: SecretStr) -> bool:
    return hmac.compare_digest(given.encode(), token.get_secret_value().encode())


def _basic_password(header: str) -> str:
    scheme, _, value = header.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
