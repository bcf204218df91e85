"""The FastAPI application."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.routing import Route

from netscript_workers.addresses import Clients
from netscript_workers.api import auditing, login, tasks, topics, workers
from netscript_workers.api.access import AccessTable
from netscript_workers.api.answers import add_handlers
from netscript_workers.api.auditing import Recorder
from netscript_workers.api.authentication import Authentication
from netscript_workers.api.document import describe, operation_id
from netscript_workers.api.executions import executions
from netscript_workers.api.guard import Guard
from netscript_workers.api.methods import Methods
from netscript_workers.api.routes import api, health
from netscript_workers.api.services import Services
from netscript_workers.api.subscribe import stream
from netscript_workers.tokens import Tokens

# What asks again and again, and what stays open.
_QUIET = frozenset({"/health", "/health/ready", "/metrics", "/api/v1/workers/subscribe"})


def _is_quiet(scope: Any) -> bool:
    path: str = scope.get("path", "")
    return path in _QUIET or not path.startswith("/api/")


# FastAPI tells of requests by itself where somebody listens: of each one span, and of what failed
# no messages, which may hold anything. A FastAPI that knows nothing of it takes this for nothing.
_TELEMETRY: dict[str, Any] = {
    "telemetry": {
        "operation_spans": False,
        "logs": False,
        "auto_configure": False,
        "exclude": _is_quiet,
    }
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Who may come in.

    Attributes:
        tokens: Of those who may; without any, this machine alone.
        rate: Requests in a minute that each token is good for; 0 for any number.
        clients: Finds out who sent a request.
        public_url: What browsers call us by, if a proxy calls us otherwise.
        insecure: Whether anybody may come in where there are no tokens.
    """

    tokens: Tokens = field(default_factory=Tokens)
    rate: int = 0
    clients: Clients = field(default_factory=Clients)
    public_url: str = ""
    insecure: bool = False


def create_app(
    services: Services,
    routers: Sequence[APIRouter] = (),
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
    doors: Doors | None = None,
) -> FastAPI:
    """Return the API.

    Args:
        services: What its routes work with.
        routers: More routes on the same port.
        lifespan: What runs as long as the app does.
        doors: Who may come in; by default this machine alone.

    Raises:
        ConfigurationError: Nothing says who may use one of its routes.
    """
    doors = doors or Doors()
    app = FastAPI(
        title="netscript",
        version=services.version,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=lifespan,
        generate_unique_id_function=operation_id,
        redirect_slashes=False,
        **_TELEMETRY,
    )
    app.state.services = services
    add_handlers(app)
    table = AccessTable()
    recorder = Recorder(services.store)
    authentication = Authentication(doors.tokens, rate=doors.rate, clients=doors.clients)
    pages = login.routes(authentication, recorder, doors.public_url)
    own = (health, api, tasks.routes, executions, stream, topics.routes, workers.routes)
    every = (*own, auditing.routes, pages, *routers)
    for router in every:
        app.include_router(router)
    table.check(app.routes)
    routes = [*app.routes, *(route for router in every for route in router.routes)]
    found = [route for route in routes if isinstance(route, Route)]
    app.openapi = describe(app, found)  # type: ignore[method-assign]
    app.add_middleware(Methods)
    app.add_middleware(
        Guard,
        table=table,
        authentication=authentication,
        recorder=recorder,
        public_url=doors.public_url,
        insecure=doors.insecure,
    )
    return app
