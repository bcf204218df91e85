"""Webhook definitions: `@webhook` and `define_webhook`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, Required, TypedDict, cast

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError
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
from netscript_triggers.definitions import (
    Actions,
    ChooseSecrets,
    Dedupe,
    Dispatch,
    SecretNames,
    WebhookDefinition,
)
from netscript_triggers.media import PARSES, Parse
from netscript_triggers.paths import check_path
from netscript_triggers.verifiers import Verifier, verifier_named
from netscript_workers.addresses import AllowList, parse_networks
from netscript_workers.errors import ConfigurationError
from netscript_workers.options import OptionError, check_names, check_type
from netscript_workers.rates import Rate, check_rate, parse_rate
from netscript_workers.retries import Retry

R = TypeVar("R", bound=Actions | Awaitable[Actions])

DEFAULT_MAX_BODY = 1_048_576

_METHODS = frozenset({"POST", "PUT", "PATCH"})
_MAX_TOLERANCE = 7 * 24 * 3600
_RESERVED = ("/api", "/health", "/metrics", "/login", "/logout")


class WebhookOptions(TypedDict, total=False):
    """The options of a webhook; `define_webhook` says what each means."""

    id: Required[str]
    path: Required[str]
    verifier: Required[str | Verifier]
    secret_env: SecretNames | ChooseSecrets | None
    model: Any
    methods: Sequence[str]
    dispatch: Dispatch
    dedupe: Dedupe
    events: Sequence[str]
    parse: Parse
    tolerance: float
    max_body: int
    concurrency: int | None
    circuit: Circuit | None
    decompress: bool
    allow_ips: Sequence[str]
    rate: str | None
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
            path: Where it listens, such as `/webhooks/payment`; `/webhooks/{tenant}` has a
                parameter, which is one part of the path and stands in `event.path_params`. An
                exact path goes before one with parameters.
            verifier: A preset's name, such as `hmac-sha256`, or a verifier object.
            secret_env: The environment variable (or several) that holds the secret, read at each
                request. A variable may hold several secrets separated by blanks; each is accepted.
                A function of the request (`request.path_params["tenant"]`) returns the names for
                each tenant; one it returns None for or raises about is refused like any other.
            model: The payload's type; a Pydantic model, dataclass or TypedDict.
            methods: HTTP methods; `("POST",)`.
            dispatch: `"inline"` runs the handler before the answer, in one transaction with the
                event; `"background"` answers first.
            dedupe: `"auto"` takes the delivery's id, or without one the signed bytes, as the
                event's key; `"id"` only an id; None takes every delivery for a new event.
            events: Event types that are handled, such as `["payment.*"]`; others are kept as
                completed with the reason `filtered`. The type is what the verifier finds, or else
                the payload's `type`, `event_type` or `event`.
            parse: How the body is read. `"json"`; `"form"`, whose payload has each field's text,
                a list of texts where it is repeated, or the JSON of a single field `payload`;
                `"raw"`, whose payload is the bytes; `"cloudevents"`, whose payload is the event's
                data and whose attributes are `event.cloudevent`.
            tolerance: Seconds that a signed time may be off, both ways, for schemes that sign one;
                by default what the preset says, in most 300.
            max_body: Bytes a body may have, 1 MiB by default.
            concurrency: How many of its events are handled at a time, in all servers together; for
                `dispatch="background"`.
            circuit: When its handler is left alone because it keeps failing; None for never.
            decompress: Whether bodies in gzip or deflate are taken; `max_body` holds before and
                after. The signature is of the bytes as they came.
            allow_ips: Addresses and networks that may deliver, such as `["203.0.113.0/24"]`; all,
                by default.
            rate: Requests that are let in, such as `"100/s"`: so many at once, and evenly from
                then on, in each server process. Those too many are counted before their signature
                is checked, and answered 429.
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
    secret_env: SecretNames | ChooseSecrets | None = None,
    model: Any = None,
    methods: Sequence[str] = ("POST",),
    dispatch: Dispatch = "inline",
    dedupe: Dedupe = "auto",
    events: Sequence[str] = (),
    parse: Parse = "json",
    tolerance: float | None = None,
    max_body: int = DEFAULT_MAX_BODY,
    concurrency: int | None = None,
    circuit: Circuit | None = DEFAULT_CIRCUIT,
    decompress: bool = False,
    allow_ips: Sequence[str] = (),
    rate: str | None = None,
    retry: Retry = DEFAULT_RETRY,
    description: str | None = None,
) -> WebhookDefinition[Any]:
    owner = f'webhook "{id}"'
    check_type(owner, "path", path, str, "text")
    check_type(owner, "max_body", max_body, int, "a whole number of bytes")
    check_type(owner, "decompress", decompress, bool, "True or False")
    check_rate(owner, rate)
    check_id("webhook", id)
    check_running(owner, retry, concurrency, circuit)
    _check_path(path, owner)
    _check_parse(owner, parse, model)
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
    adapter = adapter_of(model, owner)
    return WebhookDefinition(
        handler=handler,
        id=id,
        path=path,
        verifier=checked,
        secret_env=names,
        model=adapter,
        methods=upper,
        dispatch=dispatch,
        dedupe=dedupe,
        events=event_patterns(owner, events),
        concurrency=concurrency,
        circuit=circuit,
        max_body=max_body,
        parse=parse,
        lists=_lists(adapter) if parse == "form" else frozenset(),
        decompress=decompress,
        allow_ips=_allow_list(owner, allow_ips),
        rate=_rate(rate),
        retry=retry,
        takes_context=takes_context(handler, owner),
        **facts_of(handler, description),
    )


def _check_path(path: str, owner: str) -> None:
    check_path(path, owner)
    if any(path == place or path.startswith(f"{place}/") for place in _RESERVED):
        raise ConfigurationError(
            f"{owner}: {path} belongs to netscript's own API.", hint="Use /webhooks/…"
        )


def _check_parse(owner: str, parse: Parse, model: Any) -> None:
    if parse not in PARSES:
        raise ConfigurationError(
            f"{owner}: parse={parse!r} can't be used.", hint=f"Use one of {', '.join(PARSES)}."
        )
    if parse == "raw" and model is not None:
        raise ConfigurationError(
            f"{owner}: parse='raw' gives the bytes as they came, which no model reads.",
            hint="Leave model= out, and read event.payload yourself.",
        )


def _allow_list(owner: str, networks: Sequence[str]) -> AllowList:
    if isinstance(networks, str):  # its letters would be the addresses
        raise OptionError(
            f"{owner}: allow_ips={networks!r} must be several.",
            hint=f"Write allow_ips=[{networks!r}].",
        )
    try:
        return AllowList(parse_networks(networks))
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"{owner}: allow_ips={networks!r} can't be used: {error}."
        ) from error


def _rate(text: str | None) -> Rate | None:
    """Return a rate of which so many come together as come in its time."""
    if text is None:
        return None
    return Rate(parse_rate(text).interval, int(text.partition("/")[0]))


def _lists(model: TypeAdapter[Any] | None) -> frozenset[str]:
    """Return the fields of a model that may be lists."""
    if model is None:
        return frozenset()
    try:
        fields = model.json_schema().get("properties", {})
    except PydanticUserError:  # a type that has no JSON Schema
        return frozenset()
    return frozenset(name for name, schema in fields.items() if _is_list(schema))


def _is_list(schema: Mapping[str, Any]) -> bool:
    kinds = [schema, *schema.get("anyOf", ())]
    types = {kind.get("type") for kind in kinds}
    return "array" in types and "string" not in types


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
    secret_env: SecretNames | ChooseSecrets | None, verifier: Verifier, owner: str
) -> tuple[str, ...] | ChooseSecrets:
    if callable(secret_env):
        return secret_env
    names = (secret_env,) if isinstance(secret_env, str) else tuple(secret_env or ())
    if (verifier.needs_secret and not all(names)) or (verifier.needs_secret and not names):
        raise ConfigurationError(
            f"{owner}: the verifier {verifier.name} needs a secret.",
            hint='Name the variable that holds it, as in secret_env="WEBHOOK_SECRET".',
        )
    return names
