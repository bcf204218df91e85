"""Webhook definitions: `@webhook` and `define_webhook`."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, Required, TypedDict, cast

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
from netscript_triggers.definitions import Actions, Dedupe, Dispatch, WebhookDefinition
from netscript_triggers.verifiers import Verifier, verifier_named
from netscript_workers.errors import ConfigurationError
from netscript_workers.options import OptionError, check_names, check_type
from netscript_workers.retries import Retry

R = TypeVar("R", bound=Actions | Awaitable[Actions])

DEFAULT_MAX_BODY = 1_048_576

_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+")
_METHODS = frozenset({"POST", "PUT", "PATCH"})
_MAX_TOLERANCE = 7 * 24 * 3600
_RESERVED = ("/api", "/health", "/metrics")


class WebhookOptions(TypedDict, total=False):
    """The options of a webhook; `define_webhook` says what each means."""

    id: Required[str]
    path: Required[str]
    verifier: Required[str | Verifier]
    secret_env: str | Sequence[str] | None
    model: Any
    methods: Sequence[str]
    dispatch: Dispatch
    dedupe: Dedupe
    events: Sequence[str]
    parse: str
    tolerance: float
    max_body: int
    concurrency: int | None
    circuit: Circuit | None
    retry: Retry
    description: str | None


class _Decorator(Protocol):
    def __call__(self, handler: Callable[..., R], /) -> WebhookDefinition[R]: ...


def webhook(**options: Unpack[WebhookOptions]) -> _Decorator:
    """Make a webhook of a function that takes an event and returns actions.

    Args:
        **options: Those of `define_webhook`.

    Raises:
        ConfigurationError: The handler or an option can't work.
    """

    def decorate(handler: Callable[..., R], /) -> WebhookDefinition[R]:
        return define_webhook(handler, **options)

    return decorate


def define_webhook(
    handler: Callable[..., R], **options: Unpack[WebhookOptions]
) -> WebhookDefinition[R]:
    """Make a webhook; the functional form of `@webhook`.

    Args:
        handler: A `def` or `async def` function of an event (and a `TriggerContext`, if it takes
            two arguments). It returns a list of actions, one action or None; what it raises fails
            the event, which is then tried again.
        **options:
            id: Unique in the project.
            path: Where it listens, such as `/webhooks/payment`.
            verifier: A preset's name, such as `hmac-sha256`, or a verifier object.
            secret_env: The environment variable (or several) that holds the secret, read at each
                request. A variable may hold several secrets separated by blanks; each is accepted.
            model: The payload's type; a Pydantic model, dataclass or TypedDict.
            methods: HTTP methods; `("POST",)`.
            dispatch: `"inline"` runs the handler before the answer, in one transaction with the
                event; `"background"` answers first.
            dedupe: `"auto"` takes the delivery's id, or without one the signed bytes, as the
                event's key; `"id"` only an id; None takes every delivery for a new event.
            events: Event types that are handled, such as `["payment.*"]`; others are kept as
                completed with the reason `filtered`. The type is what the verifier finds, or else
                the payload's `type`, `event_type` or `event`.
            parse: How the body is read; `"json"`.
            tolerance: Seconds that a signed time may be off, both ways, for schemes that sign one;
                by default what the preset says, in most 300.
            max_body: Bytes a body may have, 1 MiB by default.
            concurrency: How many of its events are handled at a time, in all servers together; for
                `dispatch="background"`.
            circuit: When its handler is left alone because it keeps failing; None for never.
            retry: How often and how soon a failing handler is tried again.
            description: By default the first line of the handler's docstring.

    Raises:
        ConfigurationError: The handler or an option can't work.
    """
    owner = f'webhook "{options.get("id", "?")}"'
    known = WebhookOptions.__annotations__
    check_names(owner, options, known, required=("id", "path", "verifier"))
    return _define(handler, **options)


def _define(
    handler: Callable[..., Any],
    *,
    id: str,  # noqa: A002 - the contract's name
    path: str,
    verifier: str | Verifier,
    secret_env: str | Sequence[str] | None = None,
    model: Any = None,
    methods: Sequence[str] = ("POST",),
    dispatch: Dispatch = "inline",
    dedupe: Dedupe = "auto",
    events: Sequence[str] = (),
    parse: str = "json",
    tolerance: float | None = None,
    max_body: int = DEFAULT_MAX_BODY,
    concurrency: int | None = None,
    circuit: Circuit | None = DEFAULT_CIRCUIT,
    retry: Retry = DEFAULT_RETRY,
    description: str | None = None,
) -> WebhookDefinition[Any]:
    owner = f'webhook "{id}"'
    check_type(owner, "path", path, str, "text")
    check_type(owner, "max_body", max_body, int, "a whole number of bytes")
    check_id("webhook", id)
    check_running(owner, retry, concurrency, circuit)
    _check_path(path, owner)
    _check_available(owner, parse=parse)
    checked = verifier_named(verifier) if isinstance(verifier, str) else verifier
    if isinstance(checked, type) or not isinstance(checked, Verifier):  # pyright: ignore[reportUnnecessaryIsInstance] - users' values
        raise OptionError(
            f"{owner}: verifier={verifier!r} is no verifier.",
            hint='Use a preset\'s name, such as "hmac-sha256", or an object: HmacVerifier(...).',
        )
    checked = _tolerant(checked, tolerance, owner)
    names = _secret_names(secret_env, checked, owner)
    upper = tuple(method.upper() for method in methods)
    if not upper or not set(upper) <= _METHODS:
        raise ConfigurationError(
            f"{owner}: methods={tuple(methods)!r} can't be used.",
            hint=f"Use some of {', '.join(sorted(_METHODS))}.",
        )
    if dispatch not in ("inline", "background") or dedupe not in ("auto", "id", None):
        raise ConfigurationError(
            f"{owner}: dispatch={dispatch!r}, dedupe={dedupe!r} can't be used.",
            hint='dispatch is "inline" or "background"; dedupe is "auto", "id" or None.',
        )
    if concurrency is not None and dispatch != "background":
        raise ConfigurationError(
            f"{owner}: concurrency={concurrency!r} can't hold while requests run the handler.",
            hint='Add dispatch="background".',
        )
    if max_body < 1:
        raise ConfigurationError(f"{owner}: max_body={max_body!r} must be more than zero.")
    return WebhookDefinition(
        handler=handler,
        id=id,
        path=path,
        verifier=checked,
        secret_env=names,
        model=adapter_of(model, owner),
        methods=upper,
        dispatch=dispatch,
        dedupe=dedupe,
        events=event_patterns(owner, events),
        concurrency=concurrency,
        circuit=circuit,
        max_body=max_body,
        retry=retry,
        takes_context=takes_context(handler, owner),
        **facts_of(handler, description),
    )


def _check_path(path: str, owner: str) -> None:
    if "{" in path:
        raise ConfigurationError(
            f"{owner}: path parameters are not available in this version.",
            hint="Write one webhook per path.",
        )
    if not _PATH.fullmatch(path) or any(part in {".", ".."} for part in path.split("/")):
        raise ConfigurationError(
            f"{owner}: the path {path!r} can't be used.",
            hint="Write it as /webhooks/payment: a slash first, no query, no blanks.",
        )
    if any(path == place or path.startswith(f"{place}/") for place in _RESERVED):
        raise ConfigurationError(
            f"{owner}: {path} belongs to netscript's own API.", hint="Use /webhooks/…"
        )


def _check_available(owner: str, *, parse: str) -> None:
    if parse != "json":
        raise ConfigurationError(
            f"{owner}: parse={parse!r} is not available in this version.", hint='Use "json".'
        )


def _tolerant(verifier: Verifier, tolerance: float | None, owner: str) -> Verifier:
    if tolerance is None:
        return verifier
    check_type(owner, "tolerance", tolerance, (int, float), "a number of seconds")
    if not 0 < tolerance <= _MAX_TOLERANCE:
        raise ConfigurationError(
            f"{owner}: tolerance={tolerance!r} can't be used.",
            hint=f"Seconds, more than zero and at most {_MAX_TOLERANCE:,}.",
        )
    if not getattr(verifier, "signs_time", False):
        raise ConfigurationError(
            f"{owner}: tolerance= means nothing to {verifier.name}, which signs no time.",
            hint="Leave it out.",
        )
    made: Verifier = cast("Any", verifier).with_tolerance(float(tolerance))
    return made


def _secret_names(
    secret_env: str | Sequence[str] | None, verifier: Verifier, owner: str
) -> tuple[str, ...]:
    if callable(secret_env):
        raise ConfigurationError(
            f"{owner}: a callable secret_env is not available in this version.",
            hint="Name one variable or a list of them.",
        )
    names = (secret_env,) if isinstance(secret_env, str) else tuple(secret_env or ())
    if (verifier.needs_secret and not all(names)) or (verifier.needs_secret and not names):
        raise ConfigurationError(
            f"{owner}: the verifier {verifier.name} needs a secret.",
            hint='Name the variable that holds it, as in secret_env="WEBHOOK_SECRET".',
        )
    return names
