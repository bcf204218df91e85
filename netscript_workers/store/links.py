"""Connections to PostgreSQL that don't wait for ever for an answer that will never come.

A server that is slow ends a statement by itself, by its `statement_timeout`. What is bounded here
is silence: the machine that is gone, the firewall that forgot a connection, the pooler that hangs.
The kernel notices most of it by `tcp_user_timeout` and keepalives; not where something in between
still acknowledges what nobody reads.
"""

from __future__ import annotations

import select
import time
from collections.abc import Generator
from typing import Any

import psycopg
from sqlalchemy import URL, Engine, event
from sqlalchemy.exc import InvalidatePoolError

# How long a connection may take to be made; libpq takes nothing under two seconds.
_CONNECT_SECONDS = 5
_LEAST_CONNECT_SECONDS = 2
# The server is to speak first: then the connection lives on, and no statement of ours does.
_SERVER_MARGIN = 1.0
_SILENCE_MARGIN = 2.0
# What the pool asks a connection before it gives it out takes no time where anybody is there.
_PING_SECONDS = 2.0
# A process that is stopped, or whose machine is gone, must keep neither locks nor a snapshot.
_IDLE_SECONDS = 60
_KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}


class Link(psycopg.Connection[Any]):
    """A connection that is closed when its server has been silent for too long.

    Attributes:
        silence: How many seconds one answer may take.
    """

    silence: float = float("inf")

    def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        """Wait for an answer as psycopg does, but not longer than `silence`."""
        try:
            return super().wait(_bounded(gen, time.monotonic() + self.silence), *args, **options)
        except _SilenceError:
            # What became of the statement nobody knows; the pool must not give this out again.
            self.close()
            message = f"the server did not answer for {self.silence:g} s"
            raise psycopg.OperationalError(message) from None


class _SilenceError(Exception):
    """The deadline has passed."""


def _bounded(gen: Generator[Any, Any, Any], deadline: float) -> Generator[Any, Any, Any]:
    """Pass everything on; psycopg sends a zero now and then while nothing is ready."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                raise _SilenceError
            wanted = gen.send(ready)
    except StopIteration as end:
        return end.value


def parameters(url: URL, *, name: str, patience: float | None, options: str = "") -> dict[str, Any]:
    """Return what to connect with; what the URL says itself is left to it.

    Args:
        url: Of the database.
        name: Shown in the server's list of connections.
        patience: Seconds that a statement may take; None for as long as it likes.
        options: Settings of the session, as `-c name=value`.
    """
    wanted: dict[str, Any] = {
        "connect_timeout": _CONNECT_SECONDS,
        "application_name": name,
        **_KEEPALIVES,
    }
    if patience is not None:
        quick = max(round(patience), _LEAST_CONNECT_SECONDS)
        wanted["connect_timeout"] = min(quick, _CONNECT_SECONDS)
        wanted["tcp_user_timeout"] = round((patience + _SILENCE_MARGIN) * 1000)
        options += f" -c statement_timeout={round((patience + _SERVER_MARGIN) * 1000)}"
        options += f" -c idle_in_transaction_session_timeout={_IDLE_SECONDS * 1000}"
    if options:
        wanted["options"] = options.strip()
    return {key: value for key, value in wanted.items() if key not in url.query}


def bound(engine: Engine, patience: float) -> None:
    """Give up connections of this engine that say nothing for longer than `patience`."""
    silence = patience + _SILENCE_MARGIN

    def connect(_dialect: Any, _record: Any, args: Any, params: Any) -> Link:
        link: Link = Link.connect(*args, **params)
        link.silence = silence
        return link

    def given_out(link: Link, *_: Any) -> None:
        if _has_news(link) and not _lives(link):
            # Its neighbours in the pool have most likely died with it.
            raise InvalidatePoolError("the server has closed the connection")
        link.silence = silence

    def given_back(link: Link | None, *_: Any) -> None:
        if link is not None:
            link.silence = min(silence, _PING_SECONDS)

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "checkout", given_out)
    event.listen(engine, "checkin", given_back)


def _has_news(link: Link) -> bool:
    """Tell whether a connection that nobody uses has something to read, as its end would be.

    Asking the server each time, as the pool's own ping does, would double what a worker that has
    nothing to do asks of it.
    """
    if link.closed:
        return True
    # Not select(), which takes no descriptor beyond 1023.
    watch = select.poll()
    watch.register(link, select.POLLIN)
    return bool(watch.poll(0))


def _lives(link: Link) -> bool:
    try:
        link.execute("SELECT 1")
        link.rollback()
    except psycopg.Error:
        return False
    return True
