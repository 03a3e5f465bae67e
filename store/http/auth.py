"""Who may do what: bearer tokens; a browser may send one as the password of Basic authentication (any user name).

The middleware asks before a body is read; the dependencies say in each route, and in the description, what it needs.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple
from urllib.parse import urlsplit

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr
from starlette.types import Scope

from store.base.exposure import is_this_machine
from store.base.settings import ServeSettings
from store.http.problems import ProblemError
from store.http.service import Current

OPEN_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
"""Need no token."""
_READING = frozenset({"GET", "HEAD", "POST", "OPTIONS"})
_bearer = HTTPBearer(auto_error=False, description="`serve.read_token` or `serve.admin_token`, where one is set")


class Access(IntEnum):
    """What a request may do; each includes the one before."""

    NONE = 0
    READ = 1
    CHANGE = 2


class _Caller(NamedTuple):
    """access: granted. known: by a token of theirs, not because none is asked."""

    access: Access
    known: bool


def needed(method: str, path: str) -> Access:
    """What a request needs before its body is read. A route may ask for more."""
    if path in OPEN_PATHS:
        return Access.NONE
    return Access.READ if method in _READING else Access.CHANGE


def check_access(settings: ServeSettings, authorization: bytes, need: Access) -> None:
    """Let a request pass.

    Args:
        authorization: value of the header, b"" if there is none.

    Raises:
        ProblemError: unauthorized, or forbidden: the token is a good one for reading.
    """
    caller = _caller(settings, authorization)
    if caller.access >= need:
        return
    key = "serve.read_token" if need is Access.READ else "serve.admin_token"
    if caller.known:
        raise ProblemError("forbidden", f"this needs `Authorization: Bearer TOKEN` with {key}; the token reads only")
    raise ProblemError("unauthorized", f"send `Authorization: Bearer TOKEN` with {key}")


def check_host(settings: ServeSettings, host: bytes) -> None:
    """Where nobody is asked for a token, a page of another site must not reach us by a name that it lets resolve to us.

    Raises:
        ProblemError: host_refused.
    """
    if settings.read_token is not None or settings.insecure:
        return
    try:
        name = urlsplit(f"//{host.decode('ascii')}").hostname or ""
    except ValueError:  # not ASCII, or brackets that do not match
        name = ""
    if not is_this_machine(name) and name != settings.host.lower():
        raise ProblemError("host_refused", "without serve.read_token serve answers to localhost and loopback addresses")


def header(scope: Scope, name: bytes) -> bytes:
    """The first header of this name (lower case), b"" if there is none."""
    return next((value for key, value in scope["headers"] if key == name), b"")


async def may_read(
    request: Request,
    service: Current,
    _: HTTPAuthorizationCredentials | None = Security(_bearer),  # noqa: B008
) -> None:
    """Dependency of everything that tells of users. Open while `serve.read_token` is not set.

    Raises:
        ProblemError: unauthorized.
    """
    check_access(service.settings, header(request.scope, b"authorization"), Access.READ)


async def may_change(
    request: Request,
    service: Current,
    _: HTTPAuthorizationCredentials | None = Security(_bearer),  # noqa: B008
) -> None:
    """Dependency of everything that changes something. Without `serve.admin_token` who may read may change.

    Raises:
        ProblemError: unauthorized, forbidden.
    """
    check_access(service.settings, header(request.scope, b"authorization"), Access.CHANGE)


def _caller(settings: ServeSettings, authorization: bytes) -> _Caller:
    given = _token(authorization)
    # both are compared, always: the time taken tells nothing
    is_reader, is_admin = _equal(given, settings.read_token), _equal(given, settings.admin_token)
    if is_admin:
        return _Caller(Access.CHANGE, True)
    if is_reader or settings.read_token is None:
        return _Caller(Access.CHANGE if settings.admin_token is None else Access.READ, is_reader)
    return _Caller(Access.NONE, False)


def _equal(given: bytes, token: SecretStr | None) -> bool:
    wanted = b"" if token is None else token.get_secret_value().encode()
    return hmac.compare_digest(given, wanted) and bool(wanted)


def _token(authorization: bytes) -> bytes:
    scheme, _, value = authorization.partition(b" ")
    schemes: Mapping[bytes, bytes] = {b"bearer": value.strip(), b"basic": _password(value.strip())}
    return schemes.get(scheme.lower(), b"")


def _password(encoded: bytes) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""
