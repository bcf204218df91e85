"""The limit that accepting is measured against: netscript's own server around a bare ASGI route.

Socket, event loop, HTTP implementation and options are those of `netscript serve`; only the
application is another one. It reads the body and checks the HMAC: no JSON, no handler, no store.
"""

from __future__ import annotations

import hmac
import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

from netscript_triggers import app
from netscript_triggers.ingress import Ingress
from netscript_workers.settings import Settings

SECRET = os.environ["BENCH_SECRET"].encode()
ACCEPTED = b'{"status": "accepted"}'


async def bare(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] == "lifespan":
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message["body"]
        more = message.get("more_body", False)
    given = dict(scope["headers"]).get(b"x-netscript-signature", b"")
    expected = b"sha256=" + hmac.digest(SECRET, body, "sha256").hex().encode()
    matches = hmac.compare_digest(given, expected)
    status = 202 if matches else 401
    length = str(len(ACCEPTED)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": ACCEPTED})


def compose(settings: Settings, *, dev: bool = False, insecure: bool = False) -> app.ServerApp:
    return app.ServerApp(bare, cast("Ingress", None), 1, 0)


if __name__ == "__main__":
    app.create_server = compose
    sys.exit(app.run_server(Settings.load(port=int(sys.argv[1]))))
