"""What a trigger is: the frozen value that `@webhook` makes."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias

from pydantic import TypeAdapter
from typing_extensions import TypeVar

from netscript_triggers.events import TriggerEvent
from netscript_triggers.media import Parse
from netscript_triggers.verifiers import RawRequest, Verifier
from netscript_workers.addresses import AllowList
from netscript_workers.batches import Action
from netscript_workers.rates import Rate
from netscript_workers.retries import Retry

R = TypeVar("R", default=Any)

Dispatch: TypeAlias = Literal["inline", "background"]
Dedupe: TypeAlias = Literal["auto", "id"] | None
Actions: TypeAlias = Sequence[Action] | Action | None
SecretNames: TypeAlias = str | Sequence[str]
ChooseSecrets: TypeAlias = Callable[[RawRequest], SecretNames | None]
AnyHandler: TypeAlias = Callable[..., Actions | Awaitable[Actions]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerContext:
    """The second argument of a handler that takes one.

    Attributes:
        trigger: The definition.
        log: A logger that carries the event's id.
    """

    trigger: WebhookDefinition
    log: logging.LoggerAdapter[logging.Logger]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WebhookDefinition(Generic[R]):
    """A webhook: a handler, where it listens, and how deliveries are verified.

    It stays callable with an event, so a handler is unit-tested without a server. `R` is what
    calling the handler returns.
    """

    handler: Callable[..., R]
    id: str
    path: str
    verifier: Verifier
    secret_env: tuple[str, ...] | ChooseSecrets
    model: TypeAdapter[Any] | None
    methods: tuple[str, ...]
    dispatch: Dispatch
    dedupe: Dedupe
    max_body: int
    parse: Parse
    lists: frozenset[str]
    decompress: bool
    allow_ips: AllowList
    rate: Rate | None
    retry: Retry
    description: str | None
    takes_context: bool
    is_async: bool
    source: str

    @property
    def kind(self) -> str:
        """What sort of trigger it is."""
        return "webhook"

    def __call__(self, event: TriggerEvent[Any], *context: TriggerContext) -> R:
        """Call the handler itself; of an `async def` one, await what this returns."""
        return self.handler(event, *context)

    def __repr__(self) -> str:
        return f"<webhook {self.id!r} at {self.path} from {self.source}>"
