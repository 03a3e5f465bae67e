"""The API's description, OpenAPI 3.1: made once for all who ask."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from store.http.models import SCHEMAS
from store.http.problems import MEDIA_TYPE, Problem
from store.http.shared_work import SharedWork

VERSION = "1"
"""Of the API, not of the package: what it promises changes only with the path's `/v1`."""


class Description:
    """Of an application, as JSON. Made again when its routes or their models are not those that it was made of."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._making = SharedWork("description", self._make)
        self._of: object = None
        self._made = b""

    async def get(self) -> bytes:
        """It takes tens of milliseconds, once; on a thread."""
        if self._of != (of := self._described()):
            self._made, self._of = await self._making.get(), of
        return self._made

    def _described(self) -> object:
        return [id(route) for route in self._app.routes], list(SCHEMAS)

    def _make(self) -> bytes:
        return json.dumps(describe(self._app), ensure_ascii=False).encode()


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of an application."""
    schema = get_openapi(
        title="anchorstream",
        version=VERSION,
        description="Fresh, query-conditioned user embeddings. Every error is RFC 9457 problem+json with a `code`.",
        routes=app.routes,
    )
    schemas = schema["components"]["schemas"]
    schemas |= SCHEMAS
    schemas["Problem"] = Problem.model_json_schema()
    # a wrong request is answered as a problem, not in FastAPI's own form
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    ours = {
        "description": "request_invalid",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for path in schema["paths"].values():
        for operation in path.values():
            if "application/json" in operation["responses"].get("422", {}).get("content", ()):
                operation["responses"]["422"] = ours
    return schema
