"""The HTTP service put together."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from store.http import console, embed, operations, problems, scenarios, users
from store.http.middleware import Guarded
from store.http.problems import Problem
from store.http.service import Service

VERSION = "1"
"""Of the API, not of the package: what it promises changes only with the path's `/v1`."""


def create_app(service: Service) -> FastAPI:
    """The ASGI application over a service."""
    # the documentation pages of FastAPI load scripts from elsewhere; the description itself is in `operations`
    app = FastAPI(title="anchorstream", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service = service
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
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = Problem.model_json_schema()
    return schema
