"""The HTTP service put together."""

from __future__ import annotations

from fastapi import FastAPI

from store.http import console, embed, operations, problems, scenarios, users
from store.http.description import Description, describe
from store.http.middleware import Guarded
from store.http.service import Service, Work


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
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    app.state.description = Description(app)
    return app
