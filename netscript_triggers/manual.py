"""Manual triggers: `@manual_trigger` and `define_manual_trigger`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, Required, TypedDict

from typing_extensions import TypeVar, Unpack

from netscript_triggers.circuits import Circuit
from netscript_triggers.defining import (
    DEFAULT_CIRCUIT,
    DEFAULT_RETRY,
    adapter_of,
    check_id,
    check_running,
    facts_of,
    takes_context,
)
from netscript_triggers.definitions import Actions, ManualDefinition
from netscript_workers.options import check_names
from netscript_workers.retries import Retry

R = TypeVar("R", bound=Actions | Awaitable[Actions])


class ManualOptions(TypedDict, total=False):
    """The options of a manual trigger; `define_manual_trigger` says what each means."""

    id: Required[str]
    model: Any
    concurrency: int | None
    circuit: Circuit | None
    retry: Retry
    description: str | None


class _Decorator(Protocol):
    def __call__(self, handler: Callable[..., R], /) -> ManualDefinition[R]: ...


def manual_trigger(**options: Unpack[ManualOptions]) -> _Decorator:
    """Make a manual trigger of a function that takes an event and returns actions.

    Args:
        **options: Those of `define_manual_trigger`.

    Raises:
        ConfigurationError: The handler or an option can't work.
    """

    def decorate(handler: Callable[..., R], /) -> ManualDefinition[R]:
        return define_manual_trigger(handler, **options)

    return decorate


def define_manual_trigger(
    handler: Callable[..., R], **options: Unpack[ManualOptions]
) -> ManualDefinition[R]:
    """Make a manual trigger; the functional form of `@manual_trigger`.

    It is fired over the API, with `netscript triggers fire` or from the dashboard: an event with
    the payload that is given, whose handler some server runs at once.

    Args:
        handler: A `def` or `async def` function of an event (and a `TriggerContext`, if it takes
            two arguments). It returns a list of actions, one action or None; what it raises fails
            the event, which is then tried again.
        **options:
            id: Unique in the project.
            model: The payload's type; a Pydantic model, dataclass or TypedDict. By default any
                JSON; a payload that it refuses is refused to whoever fires.
            concurrency: How many of its events are handled at a time, in all servers together.
            circuit: When its handler is left alone because it keeps failing; None for never.
            retry: How often and how soon a failing handler is tried again.
            description: By default the first line of the handler's docstring.

    Raises:
        ConfigurationError: The handler or an option can't work.
    """
    owner = f'manual trigger "{options.get("id", "?")}"'
    check_names(owner, options, ManualOptions.__annotations__, required=("id",))
    check_id("manual trigger", options["id"])
    retry = options.get("retry", DEFAULT_RETRY)
    concurrency = options.get("concurrency")
    circuit = options.get("circuit", DEFAULT_CIRCUIT)
    check_running(owner, retry, concurrency, circuit)
    return ManualDefinition(
        handler=handler,
        id=options["id"],
        model=adapter_of(options.get("model"), owner),
        dispatch="background",
        events=(),
        concurrency=concurrency,
        circuit=circuit,
        retry=retry,
        takes_context=takes_context(handler, owner),
        **facts_of(handler, options.get("description")),
    )
