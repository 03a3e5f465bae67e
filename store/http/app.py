"""The HTTP service put together."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from store.http import console, embed, operations, problems, scenarios, users
from store.http.middleware import Guarded
from store.http.models import SCHEMAS
from store.http.problems import MEDIA_TYPE, Problem
from store.http.service import Service, Work

VERSION = "1"
"""Of the API, not of the package: what it promises changes only with the path's `/v1`."""


def create_app(service: Service) -> FastAPI:
    """The ASGI application over a service."""
    # the documentation pages of FastAPI load scripts from elsewhere; the description itself is in `operations`
    app = FastAPI(title="anchorstream", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service = service
    app.state.work = Work(service)
    problems.install(app)
    app.add_middleware(Guarded, settings=service.settings)
    for router in (
        operations.open_router,
        users.router,
        embed.router,
        scenarios.router,
        operations.router,
        console.router,
    ):
        app.include_router(router)
    app.openapi = lambda: _description(app)  # type: ignore[method-assign]
    return app


def _description(app: FastAPI) -> dict[str, Any]:
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
