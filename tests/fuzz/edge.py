"""What is fuzzed with the whole server: bytes on its wire, and what it answers."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from pydantic import SecretStr

from netscript_triggers.app import create_server
from netscript_triggers.guard import guarded
from netscript_triggers.watch import Watch
from netscript_workers.settings import Settings
from netscript_workers.store.migrations import upgrade
from tests.attacks import BODY, JOBS, SECRET, TRIGGERS, chunk, chunked, request
from tests.fuzz.choices import Choices
from tests.support import write_project

CPU_SECONDS = 0.1
_STATUS = re.compile(rb"^HTTP/1\.1 (\d{3}) ", re.MULTILINE)
_PATHS = (
    "payment", "small", "zipped", "form", "raw", "events", "listed", "unset", "of/acme", "of/other",
)  # fmt: skip
_GOOD = (
    *(request(path=f"/webhooks/{path}") for path in _PATHS),
    request(b"cents=5", path="/webhooks/form", kind="application/x-www-form-urlencoded"),
    request(b"\x1f\x8b\x08", "Content-Encoding: gzip", path="/webhooks/zipped"),
    chunked(chunk(BODY[:4]), chunk(BODY[4:])),
    request(close=False) + request(),
    request(path="/webhooks/payment?a=b%20c", method="OPTIONS"),
    request(path="/health", method="GET"),
)


class Errors(logging.Handler):
    """Keeps what is logged as an error: nothing that is sent may be one of ours."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(self.format(record))


class Wire:
    """The server in this process, and a way to send it bytes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: int, errors: Errors) -> None:
        self._loop = loop
        self._port = port
        self._errors = errors

    def __call__(self, choices: Choices) -> None:
        """Send a meddled request, signed or not, and look at the answer."""
        content = choices.pick(_GOOD)
        if choices.number(2):  # a body that is signed as it is
            made = choices.meddled(BODY)
            kind = choices.pick(["application/json", "application/x-www-form-urlencoded", "x"])
            content = request(made, path=f"/webhooks/{choices.pick(_PATHS)}", kind=kind)
        for _ in range(choices.number(4)):
            content = choices.meddled(content)
        answer, spent = self.send(content)
        statuses = [int(status) for status in _STATUS.findall(answer)]
        assert all(200 <= status < 500 for status in statuses), statuses
        each = spent / max(len(statuses), 1)
        if each > CPU_SECONDS:  # once more: it may have been the collector's turn
            each = self.send(content)[1] / max(len(statuses), 1)
        assert each <= CPU_SECONDS, f"{each * 1000:.0f} ms of CPU: {content[:200]!r}"
        assert not self._errors.seen, self._errors.seen

    def send(self, content: bytes) -> tuple[bytes, float]:
        """Return what came back, and the seconds of CPU that it took, the client's included."""
        began = time.process_time()
        answer = self._loop.run_until_complete(self._exchange(content))
        return answer, time.process_time() - began

    async def _exchange(self, content: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        answer = b""
        try:
            writer.write(content)
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(-1), 5)
        except ConnectionError:
            pass  # it hears no more; what it said before is lost
        finally:
            writer.close()
        return answer


@contextmanager
def wire(place: Path) -> Generator[Wire]:
    """Serve a project with webhooks of every kind, on SQLite, in this process."""
    write_project(place, {"jobs/charge.py": JOBS, "triggers/hooks.py": TRIGGERS})
    url = f"sqlite:///{place / 'fuzz.db'}"
    upgrade(url)
    app = create_server(Settings(project_dir=place, database_url=SecretStr(url), max_in_flight=64))
    errors = Errors()
    root = logging.getLogger()
    level = root.level
    root.addHandler(errors)
    root.setLevel(logging.ERROR)
    config = uvicorn.Config(
        app.asgi, host="127.0.0.1", port=0, http=guarded(Watch(app.limits)), ws="none",
        log_config=None, access_log=False, lifespan="on",
    )  # fmt: skip
    server = uvicorn.Server(config)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _loop, context: errors.seen.append(str(context)))
    serving = loop.create_task(server.serve())
    while not server.started:
        loop.run_until_complete(asyncio.sleep(0.01))
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Wire(loop, port, errors)
    finally:
        server.should_exit = True
        loop.run_until_complete(serving)
        loop.close()
        root.removeHandler(errors)
        root.setLevel(level)


ENVIRONMENT = {"EDGE_SECRET": SECRET}
