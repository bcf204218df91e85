"""Sources: brokers whose messages become events. Each is a thin adapter over a client of its own.

A source of somebody else's is found by its name among the entry points `netscript.sources`:
whatever that names is called with `SourceOptions` and returns a `Source`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol
from urllib.parse import urlsplit

from netscript_workers.errors import ConfigurationError, NetscriptError, nearest

ENTRY_POINTS = "netscript.sources"
# Ours, the module that each is in, and the distribution's extra that brings its client.
BUILT_IN: Mapping[str, str] = {"redis": "redis", "amqp": "amqp", "nats": "nats", "mqtt": "mqtt"}


class SourceError(NetscriptError):
    """A broker can't be used as it is; the sentence says what to do about it."""

    code = "source"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """What a source is made of.

    Attributes:
        url: Where the broker is, with whatever it takes to be let in.
        queue: What messages are taken from: a stream, a queue, a subject or a topic filter.
        group: The name that all servers of a trigger share, so that each message goes to one.
        prefetch: How many messages are given out and not acknowledged, at most.
    """

    url: str = field(repr=False)
    queue: str
    group: str
    prefetch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message, as its broker has delivered it.

    Attributes:
        body: The bytes.
        id: What stays the same however often it is delivered; None where there is no such thing.
        address: What it was published to, where that is more than the queue tells.
        headers: What came beside the body, by lower-case name.
        receipt: What its source needs to acknowledge it.
    """

    body: bytes
    id: str | None
    address: str = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    receipt: Any = field(default=None, repr=False)


class Source(Protocol):
    """A connection to a broker. It is used on one loop, and for one connection only.

    Any exception means that it is of no use any more: it is closed, and another one is made.
    """

    async def open(self) -> None:
        """Connect, and begin to take messages from where the group is."""
        ...

    def messages(self) -> AsyncIterator[Message]:
        """Yield messages as they come, those first that were delivered and not acknowledged."""
        ...

    async def acknowledge(self, message: Message) -> None:
        """Tell the broker that it may forget a message, whose event is committed."""
        ...

    async def keep(self, messages: list[Message]) -> None:
        """Tell the broker that these are still being worked on; it is called now and then."""
        ...

    async def close(self) -> None:
        """Disconnect; what is not acknowledged is delivered again."""
        ...


class SourceFactory(Protocol):
    """What makes a source."""

    def __call__(self, options: SourceOptions) -> Source:
        """Make one; it is not connected yet."""
        ...


def check_name(name: str) -> None:
    """Refuse the name of a source that there is not; its client need not be installed here.

    Raises:
        ConfigurationError: There is none.
    """
    if name not in BUILT_IN:
        _entry_point(name)


def find_factory(name: str) -> SourceFactory:
    """Return what makes sources of a name.

    Raises:
        ConfigurationError: There is none of that name, or its client is not installed.
    """
    module = BUILT_IN.get(name)
    if module is not None:
        try:
            factory: SourceFactory = import_module(f"{__name__}.{module}").make
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f'The source "{name}" needs {error.name}, which is not installed.',
                hint=f"Run: pip install 'netscript[{name}]'",
            ) from error
        return factory
    loaded: SourceFactory = _entry_point(name).load()
    return loaded


def _entry_point(name: str) -> EntryPoint:
    others = {one.name: one for one in entry_points(group=ENTRY_POINTS)}
    if name not in others:
        known = sorted({*BUILT_IN, *others})
        close = nearest(name, known)
        raise ConfigurationError(
            f'There is no source "{name}".',
            hint=f'Did you mean "{close}"?' if close else f"There are: {', '.join(known)}.",
        )
    return others[name]


def place_of(url: str) -> str:
    """Return where a URL leads, without what lets somebody in, for logs and errors."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "a URL that can't be read"
    return f"{parts.scheme}://{parts.hostname or ''}{port}"


def texts(given: Mapping[Any, Any] | None, *, most: int = 100) -> dict[str, str]:
    """Return what can be kept of headers: texts and numbers, by lower-case name."""
    kept: dict[str, str] = {}
    for name, value in list((given or {}).items())[:most]:
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        if isinstance(text, (str, int, float)):
            key = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
            kept[key.lower()] = str(text)
    return kept
