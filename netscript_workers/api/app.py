"""The FastAPI application."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from fastapi import APIRouter, FastAPI
from starlette.routing import Route

from netscript_workers.api import tasks, topics, workers
from netscript_workers.api.answers import add_handlers
from netscript_workers.api.document import describe, operation_id
from netscript_workers.api.executions import executions
from netscript_workers.api.guard import Guard
from netscript_workers.api.methods import Methods
from netscript_workers.api.routes import api, health
from netscript_workers.api.services import Services


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
        generate_unique_id_function=operation_id,
        redirect_slashes=False,
    )
    app.state.services = services
    add_handlers(app)
    every = (health, api, tasks.routes, executions, topics.routes, workers.routes, *routers)
    for router in every:
        app.include_router(router)
    routes = [*app.routes, *(route for router in every for route in router.routes)]
    found = [route for route in routes if isinstance(route, Route)]
    app.openapi = describe(app, found)  # type: ignore[method-assign]
    app.add_middleware(Methods, routes=found)
    app.add_middleware(Guard)
    return app
