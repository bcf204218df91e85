"""A worker's own port for Prometheus. A server has its API for that."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, cast

from netscript_workers.addresses import host_of, is_loopback
from netscript_workers.errors import ConfigurationError
from netscript_workers.telemetry.exporting import CONTENT_TYPE, scrape
from netscript_workers.tokens import Tokens

_PATH = "/metrics"
# Who takes longer to ask, or to take the answer, is left.
_SECONDS = 5.0
# Connections at a time; one more is closed at once.
_MOST = 8


@contextmanager
def served(host: str, port: int, tokens: Tokens) -> Generator[str]:
    """Serve `GET /metrics`, as long as this lasts; give its URL.

    With tokens, one of them is needed; without, only this machine's own names are answered.

    Raises:
        ConfigurationError: The port can't be opened, or anybody could read them.
    """
    if not tokens and not is_loopback(host):
        raise ConfigurationError(
            f"Without tokens a worker serves its metrics at loopback only, not at {host}.",
            hint="Set NETSCRIPT_API_TOKENS to one that `netscript secrets new` prints.",
        )
    try:
        server = _Server(host, port, tokens)
    except OSError as error:
        raise ConfigurationError(
            f"Port {port} of {host} can't be opened: {error.strerror}.",
            hint="Choose another with --metrics-port.",
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="netscript-metrics", daemon=True)
    thread.start()
    name = f"[{host}]" if ":" in host else host
    try:
        yield f"http://{name}:{server.server_address[1]}{_PATH}"
    finally:
        server.shutdown()
        server.server_close()


class _Server(HTTPServer):
    def __init__(self, host: str, port: int, tokens: Tokens) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._tokens = tokens
        self._places = threading.Semaphore(_MOST)
        super().__init__((host, port), _Asked)

    def allows(self, host: str, authorization: str) -> int:
        """Say whether a request may be answered: 200, 401 or 421."""
        if not self._tokens:  # nobody else's page may have its browser read them
            return 200 if is_loopback(host_of(host)) else 421
        scheme, _, token = authorization.partition(" ")
        known = scheme.lower() == "bearer" and self._tokens.find(token.strip()) is not None
        return 200 if known else 401

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer on a thread of its own, if there is a place."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        work = threading.Thread(target=self._answer, args=(request, client_address), daemon=True)
        try:
            work.start()
        except RuntimeError:  # no more threads are to be had
            self._places.release()
            self.shutdown_request(request)

    def _answer(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:  # it has gone
            return
        finally:
            self.shutdown_request(request)
            self._places.release()


class _Asked(BaseHTTPRequestHandler):
    timeout = _SECONDS

    def do_GET(self) -> None:
        """Answer."""
        status = 404
        if self.path.partition("?")[0] == _PATH:
            given = self.headers.get("Host", ""), self.headers.get("Authorization", "")
            status = cast("_Server", self.server).allows(*given)
        body = scrape() if status == 200 else b""
        self.send_response(status)
        if status == 200:
            self.send_header("Content-Type", CONTENT_TYPE)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Bearer realm="netscript"')
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """Say no more than that."""
        return "netscript"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is called there
        """Keep what others send out of the log."""
