"""A webhook edge on a real database, without a socket."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from netscript_triggers import WebhookDefinition, WebhookEvent, define_webhook, enqueue_job
from netscript_triggers.answers import Receive, Scope, Send
from netscript_triggers.coordinator import Coordinator
from netscript_triggers.definitions import AnyTrigger
from netscript_triggers.handlers import Handlers
from netscript_triggers.ingress import Ingress
from netscript_triggers.processor import Processor
from netscript_triggers.records import EventDetail
from netscript_triggers.registry import by_path
from netscript_triggers.states import TriggerStates
from netscript_triggers.store import queries
from netscript_workers import JobContext, job
from netscript_workers.store.definitions import StoredCatalog
from netscript_workers.store.engine import Store
from netscript_workers.store.writer import Writer
from tests.kit import scalar

SECRET = "s3cret"
PATH = "/webhooks/payment"


@job(id="charge")
async def charge(ctx: JobContext[dict[str, int]]) -> None: ...


def pay(event: WebhookEvent) -> list[Any]:
    return [enqueue_job(charge, {"cents": event.payload["cents"]})]


def trigger(handler: Callable[..., Any] = pay, **options: Any) -> WebhookDefinition[Any]:
    """Return a webhook with the usual options."""
    known: dict[str, Any] = {
        "id": "payment",
        "path": PATH,
        "verifier": "hmac-sha256",
        "secret_env": "WEBHOOK_SECRET",
    }
    return define_webhook(handler, **{**known, **options})


def body_of(payload: Any) -> bytes:
    return payload if isinstance(payload, bytes) else json.dumps(payload).encode()


def signature(body: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


@dataclass
class Edge:
    """The edge, the processor behind it, and a client in front of it."""

    store: Store
    ingress: Ingress
    coordinator: Coordinator
    processor: Processor
    client: httpx.AsyncClient
    environment: dict[str, str]

    async def post(
        self,
        payload: Any = b'{"cents":5}',
        *,
        headers: dict[str, str] | None = None,
        path: str = PATH,
        method: str = "POST",
        secret: str = SECRET,
    ) -> httpx.Response:
        body = body_of(payload)
        signed = {"X-NetScript-Signature": signature(body, secret)}
        given = {**signed, "Content-Type": "application/json", **(headers or {})}
        return await self.client.request(method, path, content=body, headers=given)

    def count(self, table: str) -> int:
        found: int = scalar(self.store, f"SELECT count(*) FROM netscript_{table}")
        return found

    def nothing_is_stored(self) -> bool:
        tables = ("trigger_events", "executions", "idempotency_keys", "changes")
        return not any(self.count(table) for table in tables)

    def event(self, event_id: str) -> EventDetail:
        with self.store.read() as conn:
            return queries.get_event(conn, event_id)


async def _not_found(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@contextlib.asynccontextmanager
async def open_edge(
    store: Store, *triggers: AnyTrigger, process: bool = False, jobs: Sequence[Any] = ()
) -> AsyncGenerator[Edge]:
    """Serve these triggers (one, by default), with a running processor if asked for."""
    known: dict[str, AnyTrigger] = {one.id: one for one in triggers or (trigger(),)}
    writer = Writer(store, patience=2.0)
    handlers = Handlers()
    catalog = StoredCatalog(store, {one.id: one for one in jobs})
    states = TriggerStates()
    processor = Processor(store, known, handlers, catalog, states=states)
    coordinator = Coordinator(
        store, writer, handlers, catalog, states=states, on_pending=processor.nudge
    )
    environment = {"WEBHOOK_SECRET": SECRET}
    ingress = Ingress(
        _not_found, by_path(known), coordinator, states=states, environment=environment
    )
    writer.start()
    coordinator.start()
    processing = asyncio.create_task(processor.run()) if process else None
    transport = httpx.ASGITransport(ingress)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        try:
            yield Edge(store, ingress, coordinator, processor, client, environment)
        finally:
            if processing is not None:
                processor.stop()
                await processing
            coordinator.close()
            writer.close()
            handlers.close()
