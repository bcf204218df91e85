"""What all kinds of triggers check when they are defined."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import TypeAdapter

from netscript_triggers.circuits import Circuit
from netscript_triggers.definitions import TriggerDefinition
from netscript_workers.errors import ConfigurationError
from netscript_workers.options import OptionError, check_type
from netscript_workers.payloads import make_adapter
from netscript_workers.retries import Retry

DEFAULT_RETRY = Retry(max_attempts=8, initial_delay=1.0, max_delay=300.0)
DEFAULT_CIRCUIT = Circuit()

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def check_id(kind: str, id_: Any) -> None:
    """Refuse an id that can't stand in a URL.

    Raises:
        ConfigurationError: It is none.
    """
    check_type(f'{kind} "{id_}"', "id", id_, str, "text")
    if not _ID.fullmatch(id_):
        raise ConfigurationError(
            f"The {kind} id {id_!r} can't be used.",
            hint="Use letters, digits and . _ : - , at most 128, a letter or digit first.",
        )


def check_running(owner: str, retry: Any, concurrency: Any, circuit: Any) -> None:
    """Refuse what can't say how events are run.

    Raises:
        ConfigurationError: One of them can't be meant.
    """
    check_type(owner, "retry", retry, Retry, "a Retry, such as Retry(max_attempts=5)")
    if circuit is not None:
        check_type(owner, "circuit", circuit, Circuit, "a Circuit, such as Circuit(failures=5)")
    if concurrency is None:
        return
    check_type(owner, "concurrency", concurrency, int, "a whole number")
    if concurrency < 1:
        raise ConfigurationError(f"{owner}: concurrency={concurrency!r} must be 1 or more.")


def event_patterns(owner: str, given: Any) -> tuple[str, ...]:
    """Return the patterns of an event type filter.

    Raises:
        ConfigurationError: They are none.
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise OptionError(
            f"{owner}: events={given!r} must be several patterns.",
            hint='Write it as events=["payment.*"].',
        )
    patterns: tuple[Any, ...] = tuple(given)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - users' values
    for pattern in patterns:
        # Only what is documented: a bracket of fnmatch's would be taken for itself by a reader.
        if not isinstance(pattern, str) or not pattern or set(pattern) & set("[]?"):
            raise OptionError(
                f"{owner}: events={given!r} holds {pattern!r}, which is no pattern.",
                hint='Use types in which * stands for any text, such as "payment.*".',
            )
    return patterns


def adapter_of(model: Any, owner: str) -> TypeAdapter[Any] | None:
    """Return what validates a trigger's payload."""
    if model is None:
        return None
    return make_adapter(model, f"The model of {owner}")


def takes_context(handler: Callable[..., Any], owner: str) -> bool:
    """Tell whether a handler takes a context beside the event.

    Raises:
        ConfigurationError: It is no function of one or two arguments.
    """
    if isinstance(handler, TriggerDefinition) or not callable(handler):
        raise ConfigurationError(f"{owner}: the handler must be a function.")
    signature = inspect.signature(handler)
    for count in (1, 2):
        try:
            signature.bind(*range(count))
        except TypeError:
            continue
        return count == 2
    raise ConfigurationError(
        f"{owner}: the handler must take the event (and may take a context).",
        hint="Write it as: def handler(event: TriggerEvent).",
    )


def facts_of(handler: Callable[..., Any], description: str | None) -> dict[str, Any]:
    """Return what a definition tells of its handler."""
    return {
        "description": description if description is not None else _first_line(handler),
        "is_async": inspect.iscoroutinefunction(inspect.unwrap(handler)),
        "source": f"{getattr(handler, '__module__', '?')}.{getattr(handler, '__qualname__', '?')}",
    }


def _first_line(handler: Callable[..., Any]) -> str | None:
    doc = inspect.getdoc(handler) if inspect.isroutine(handler) else None
    return doc.strip().splitlines()[0] if doc and doc.strip() else None
