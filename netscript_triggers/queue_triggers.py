"""Queue triggers: `@queue_trigger` and `define_queue_trigger`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol, Required, TypeAlias, TypedDict

from typing_extensions import TypeVar, Unpack

from netscript_triggers.circuits import Circuit
from netscript_triggers.defining import (
    DEFAULT_CIRCUIT,
    DEFAULT_RETRY,
    adapter_of,
    check_id,
    check_running,
    event_patterns,
    facts_of,
    takes_context,
)
from netscript_triggers.definitions import Actions, Dedupe, Dispatch, MessageParse, QueueDefinition
from netscript_triggers.sources import check_name
from netscript_workers.options import OptionError, check_names, check_type
from netscript_workers.retries import Retry

R = TypeVar("R", bound=Actions | Awaitable[Actions])

Broker: TypeAlias = Literal["redis", "amqp", "nats", "mqtt"] | str

DEFAULT_PREFETCH = 20
_MOST_PREFETCH = 1000
_MAX_BODY = 1_048_576


class QueueOptions(TypedDict, total=False):
    """The options of a queue trigger; `define_queue_trigger` says what each means."""

    id: Required[str]
    source: Required[Broker]
    url_env: Required[str]
    queue: Required[str]
    group: str | None
    model: Any
    prefetch: int
    parse: MessageParse
    dispatch: Dispatch
    dedupe: Dedupe
    events: tuple[str, ...] | list[str]
    max_body: int
    concurrency: int | None
    circuit: Circuit | None
    retry: Retry
    description: str | None


class _Decorator(Protocol):
    def __call__(self, handler: Callable[..., R], /) -> QueueDefinition[R]: ...


def queue_trigger(**options: Unpack[QueueOptions]) -> _Decorator:
    """Make a queue trigger of a function that takes an event and returns actions.

    Args:
        **options: Those of `define_queue_trigger`.

    Raises:
        ConfigurationError: The handler or an option can't work.
    """

    def decorate(handler: Callable[..., R], /) -> QueueDefinition[R]:
        return define_queue_trigger(handler, **options)

    return decorate


def define_queue_trigger(
    handler: Callable[..., R], **options: Unpack[QueueOptions]
) -> QueueDefinition[R]:
    """Make a queue trigger; the functional form of `@queue_trigger`.

    A message is acknowledged to its broker only after the event and its jobs are committed. What
    nobody can read becomes a dead event with the bytes as they came, and is acknowledged.

    Args:
        handler: A `def` or `async def` function of a `QueueEvent` (and a `TriggerContext`, if it
            takes two arguments). It returns a list of actions, one action or None; what it raises
            fails the event, which is then tried again.
        **options:
            id: Unique in the project.
            source: `"redis"` (Streams), `"amqp"` (RabbitMQ), `"nats"` (JetStream), `"mqtt"`, or the
                name of an entry point among `netscript.sources`.
            url_env: The environment variable that holds the broker's URL.
            queue: A stream, a queue, a subject or a topic filter.
            group: The name that all servers share, so that each message goes to one; the
                trigger's id.
            model: The payload's type; a Pydantic model, dataclass or TypedDict. By default any
                JSON.
            prefetch: How many messages a server takes before it has acknowledged any; 20.
            parse: `"json"`, or `"raw"` for bytes.
            dispatch: `"inline"`: the handler runs before the message is acknowledged, and event
                and executions commit together. `"background"`: the event commits first.
            dedupe: `"auto"`: a message is known again by its id, or where it has none by a hash
                of what it says. `"id"`: not by the hash, for publishers that repeat themselves.
                None: never.
            events: Which types, such as `"order.*"`; by default all.
            max_body: Bytes; a longer message becomes a dead event with its first bytes.
            concurrency: How many of its events the processor handles at a time, in all servers.
            circuit: When its handler is left alone because it keeps failing; None for never.
            retry: How often and how soon a failing handler is tried again.
            description: By default the first line of the handler's docstring.

    Raises:
        ConfigurationError: The handler or an option can't work, or there is no such source.
    """
    owner = f'queue trigger "{options.get("id", "?")}"'
    required = ("id", "source", "url_env", "queue")
    check_names(owner, options, QueueOptions.__annotations__, required=required)
    check_id("queue trigger", options["id"])
    for name in ("source", "url_env", "queue"):
        _check_text(owner, name, options.get(name))
    group = options.get("group")
    if group is not None:
        _check_text(owner, "group", group)
    check_name(options["source"])
    retry = options.get("retry", DEFAULT_RETRY)
    concurrency = options.get("concurrency")
    circuit = options.get("circuit", DEFAULT_CIRCUIT)
    check_running(owner, retry, concurrency, circuit)
    parse = _one_of(owner, "parse", options.get("parse", "json"), ("json", "raw"))
    if parse == "raw" and options.get("model") is not None:
        raise OptionError(f'{owner}: parse="raw" gives bytes, which no model fits.')
    return QueueDefinition(
        handler=handler,
        id=options["id"],
        model=adapter_of(options.get("model"), owner),
        dispatch=_one_of(
            owner, "dispatch", options.get("dispatch", "inline"), ("inline", "background")
        ),
        events=event_patterns(owner, options.get("events", ())),
        concurrency=concurrency,
        circuit=circuit,
        retry=retry,
        takes_context=takes_context(handler, owner),
        broker=options["source"],
        url_env=options["url_env"],
        queue=options["queue"],
        group=group or options["id"],
        prefetch=_between(
            owner, "prefetch", options.get("prefetch", DEFAULT_PREFETCH), _MOST_PREFETCH
        ),
        parse=parse,
        dedupe=_one_of(owner, "dedupe", options.get("dedupe", "auto"), ("auto", "id", None)),
        max_body=_between(owner, "max_body", options.get("max_body", _MAX_BODY), 128 * 1_048_576),
        **facts_of(handler, options.get("description")),
    )


def _check_text(owner: str, name: str, given: Any) -> None:
    check_type(owner, name, given, str, "text")
    if not given or not given.isprintable() or len(given) > 255:
        raise OptionError(
            f"{owner}: {name}={given[:60]!r} can't be used.", hint="Use 1 to 255 characters."
        )


def _between(owner: str, name: str, given: Any, most: int) -> int:
    check_type(owner, name, given, int, "a whole number")
    if not 1 <= given <= most:
        raise OptionError(f"{owner}: {name}={given!r} must be from 1 to {most:,}.")
    return int(given)


def _one_of(owner: str, name: str, given: Any, known: tuple[Any, ...]) -> Any:
    if given not in known:
        words = ", ".join(repr(one) for one in known)
        raise OptionError(f"{owner}: {name}={given!r} must be one of {words}.")
    return given
