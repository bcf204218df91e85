"""The server process, composed: webhook edge, API and processor on one port."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType

import uvicorn
from fastapi import FastAPI

from netscript_triggers.answers import App
from netscript_triggers.api import routes
from netscript_triggers.coordinator import Coordinator
from netscript_triggers.exposure import bind, check_exposure
from netscript_triggers.gates import MAX_BYTES_IN_FLIGHT, Gates
from netscript_triggers.guard import guarded
from netscript_triggers.handlers import Handlers
from netscript_triggers.ingress import Ingress
from netscript_triggers.processor import Processor
from netscript_triggers.registry import by_path, discover_triggers
from netscript_triggers.secrets import check_triggers, unset
from netscript_triggers.states import TriggerStates
from netscript_triggers.store import states as stored_states
from netscript_triggers.store import triggers as stored_triggers
from netscript_triggers.watch import Limits, Watch
from netscript_triggers.watching.watcher import FileWatcher
from netscript_workers import __version__
from netscript_workers.addresses import Clients, parse_networks
from netscript_workers.api.app import Doors, create_app
from netscript_workers.api.services import Services
from netscript_workers.app import HOUR, ended, open_store
from netscript_workers.memory import spare_what_stays
from netscript_workers.registry import discover_jobs
from netscript_workers.settings import Settings
from netscript_workers.shutdown import ShutdownManager, ShutdownReport, ShutdownResource
from netscript_workers.store import definitions
from netscript_workers.store.definitions import StoredCatalog
from netscript_workers.store.retention import Retention
from netscript_workers.store.wake import make_bell
from netscript_workers.store.writer import ITEM_PATIENCE, Writer
from netscript_workers.streaming.feed import Feed
from netscript_workers.telemetry.wiring import start_tracing

logger = logging.getLogger(__name__)

# A sender is not kept waiting longer than its own timeout: past this it gets a 503.
SERVER_PATIENCE = ITEM_PATIENCE
# What leaving takes at most, beside what requests and handlers under way get.
_LEAVING_SECONDS = 30.0
_OTHER_DESCRIPTORS = 128
# Of Python's threads, which take turns. Its own 5 ms are long here: answers would wait for a thread
# that works on others.
_SWITCH_SECONDS = 0.0005


@dataclass(frozen=True, slots=True)
class ServerApp:
    """What a server serves, and how many triggers it has."""

    asgi: App
    ingress: Ingress
    triggers: int
    jobs: int
    limits: Limits = field(default_factory=Limits)
    # Ends what would never end by itself, so that the server can.
    end: Callable[[], None] = lambda: None


def create_server(settings: Settings, *, dev: bool = False, insecure: bool = False) -> ServerApp:
    """Compose the ASGI application of a project.

    Args:
        settings: The project's.
        dev: Whether the `memory` verifier may be used.
        insecure: Whether other machines may use the API where there are no tokens.

    Raises:
        NetscriptError: It can't start; the sentence says why.
    """
    jobs = discover_jobs(settings.project_dir, *settings.folders)
    triggers = discover_triggers(settings.project_dir, settings.triggers_dir, dev=dev)
    webhooks = by_path(triggers)
    check_triggers(webhooks.values(), os.environ, settings.public_url)
    for sentence in unset(webhooks.values(), os.environ):
        logger.warning("%s", sentence)
    store = open_store(settings, patience=SERVER_PATIENCE)
    definitions.register(store, jobs.values())
    stored_triggers.register(store, triggers.values())
    states = TriggerStates()
    with store.read() as conn:
        states.learn(stored_states.read(conn))
    window = round(settings.idempotency_hours * HOUR)
    bell = make_bell(store.parsed_url)
    writer = Writer(store, window=window, on_commit=bell.ring)
    catalog = StoredCatalog(store, jobs)
    handlers = Handlers()
    completed, failed = settings.retention_days
    processor = Processor(
        store,
        triggers,
        handlers,
        catalog,
        states=states,
        retention=Retention(completed=completed, failed=failed),
        window=window,
        on_commit=bell.ring,
    )
    coordinator = Coordinator(
        store, writer, handlers, catalog, states=states, on_pending=processor.nudge
    )

    feed = Feed(store)
    file_watcher = FileWatcher(store, triggers.values(), states=states, window=window)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        writer.start()
        coordinator.start()
        processing = asyncio.create_task(processor.run())
        loop = asyncio.get_running_loop()
        file_watcher.start(lambda: _call_soon(loop, processor.nudge))
        try:
            yield
        finally:

            async def end_processor() -> None:
                processor.stop()
                await processing

            report = await _shutdown(
                settings.shutdown_timeout + _LEAVING_SECONDS,
                ("live stream", feed.close),
                # Each still hands something to the next.
                ("file watcher", file_watcher.close),
                ("processor", end_processor),
                ("coordinator", coordinator.close),
                ("writer", writer.close),
                ("handlers", handlers.close),
                ("bell", bell.close),
                ("connections", store.dispose),
            )
            logger.log(logging.INFO if report.is_clean else logging.WARNING, "left; %s", report)

    services = Services(
        store=store,
        writer=writer,
        catalog=catalog,
        jobs=jobs,
        version=__version__,
        ring=bell.ring,
        feed=feed,
    )
    clients = Clients(parse_networks(settings.trusted_proxies))
    doors = Doors(
        tokens=settings.api_tokens,
        rate=settings.api_rate,
        clients=clients,
        public_url=settings.public_url,
        insecure=insecure,
    )
    api = create_app(services, [routes(triggers, processor.nudge)], lifespan, doors)
    largest = max((webhook.max_body for webhook in webhooks.values()), default=0)
    gates = Gates(
        clients=clients,
        max_in_flight=settings.max_in_flight,
        max_bytes=max(MAX_BYTES_IN_FLIGHT, 2 * largest),
    )
    ingress = Ingress(
        api, webhooks, coordinator, states=states, public_url=settings.public_url, gates=gates
    )
    limits = _limits(settings, largest)
    return ServerApp(ingress, ingress, len(triggers), len(jobs), limits, feed.end)


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop was closed
        loop.call_soon_threadsafe(callback)


def _limits(settings: Settings, largest_body: int) -> Limits:
    # Connections need descriptors, of which the database and the handlers need some too.
    descriptors, _most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Limits(
        seconds=settings.request_timeout,
        connections=max(min(settings.max_connections, descriptors - _OTHER_DESCRIPTORS), 1),
        receiving=max(Limits.receiving, 2 * largest_body),
    )


async def _shutdown(seconds: float, *stops: tuple[str, Callable[[], object]]) -> ShutdownReport:
    """Stop one after the other."""
    manager = ShutdownManager(timeout=seconds)
    for priority, (name, stop) in enumerate(stops):
        manager.register(ShutdownResource(name, stop, priority))
    return await manager.shutdown("told to stop")


def url_of(listener: socket.socket) -> str:
    """Return the address at which a listener is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """Ends with exit code 0 where it was told to end."""

    def __init__(self, config: uvicorn.Config, end: Callable[[], None]) -> None:
        """Serve; `end` is called when it is told to end."""
        super().__init__(config)
        self._end = end

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._end()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def run_server(
    settings: Settings,
    *,
    dev: bool = False,
    insecure: bool = False,
    on_start: Callable[[str], None] = lambda _url: None,
) -> int:
    """Serve until told to stop; return the exit code.

    Args:
        settings: The project's.
        dev: Whether the `memory` verifier may be used.
        insecure: Whether other machines may use the API where there are no tokens.
        on_start: Called with the server's URL once it answers.

    Raises:
        NetscriptError: It can't start; the sentence says why.
    """
    check_exposure(settings, insecure=insecure)
    tracing = start_tracing("serve")
    listener = bind(settings.host, settings.port)
    try:
        app = create_server(settings, dev=dev, insecure=insecure)
        config = uvicorn.Config(
            app.asgi,
            http=guarded(Watch(app.limits)),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            date_header=False,
            lifespan="on",
            timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout)),
        )
        server = _Server(config, app.end)
        url = url_of(listener)
        spare_what_stays()
        sys.setswitchinterval(_SWITCH_SECONDS)
        logger.info("%d triggers and %d jobs at %s", app.triggers, app.jobs, url)

        async def serve() -> None:
            task = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started and not task.done():
                await asyncio.sleep(0.01)
            if not task.done():
                on_start(url)
            await task

        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(serve())
    finally:
        listener.close()
        tracing.close()
    return ended(0 if server.started else 1)
