"""The FastAPI application."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from fastapi import APIRouter, FastAPI

from netscript_workers.api import topics, workers
from netscript_workers.api.answers import add_handlers
from netscript_workers.api.executions import executions
from netscript_workers.api.guard import Guard
from netscript_workers.api.routes import api, health
from netscript_workers.api.services import Services
from netscript_workers.api.subscribe import stream


def create_app(
    services: Services,
    routers: Sequence[APIRouter] = (),
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
) -> FastAPI:
    """Return the API.

    Args:
        services: What its routes work with.
        routers: More routes on the same port.
        lifespan: What runs as long as the app does.
    """
    app = FastAPI(
        title="netscript",
        version=services.version,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=lifespan,
    )
    app.state.services = services
    add_handlers(app)
    app.add_middleware(Guard)
    for router in (health, api, executions, stream, topics.routes, workers.routes, *routers):
        app.include_router(router)
    return app
