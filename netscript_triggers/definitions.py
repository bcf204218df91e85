"""What a trigger is: the frozen value that `@webhook` and its like make."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeAlias

from pydantic import TypeAdapter
from typing_extensions import TypeVar

from netscript_triggers.actions import TriggerAction
from netscript_triggers.circuits import Circuit
from netscript_triggers.events import FileChange, TriggerEvent
from netscript_triggers.files.scanning import Selection
from netscript_triggers.files.settling import Stability
from netscript_triggers.media import Parse
from netscript_triggers.verifiers import RawRequest, Verifier
from netscript_workers.addresses import AllowList
from netscript_workers.rates import Rate
from netscript_workers.retries import Retry
from netscript_workers.schedules import Schedule

R = TypeVar("R", default=Any)

Dispatch: TypeAlias = Literal["inline", "background"]
Existing: TypeAlias = Literal["take", "ignore"]
MessageParse: TypeAlias = Literal["json", "raw"]
Dedupe: TypeAlias = Literal["auto", "id"] | None
Actions: TypeAlias = Sequence[TriggerAction] | TriggerAction | None
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

    trigger: TriggerDefinition
    log: logging.LoggerAdapter[logging.Logger]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TriggerDefinition(Generic[R]):
    """A trigger of whatever kind: a handler, and how its events are run.

    It stays callable with an event, so a handler is unit-tested without a server. `R` is what
    calling the handler returns.
    """

    kind: ClassVar[str] = "trigger"

    handler: Callable[..., R]
    id: str
    model: TypeAdapter[Any] | None
    dispatch: Dispatch
    events: tuple[str, ...]
    concurrency: int | None
    circuit: Circuit | None
    retry: Retry
    description: str | None
    takes_context: bool
    is_async: bool
    source: str

    def __call__(self, event: TriggerEvent[Any], *context: TriggerContext) -> R:
        """Call the handler itself; of an `async def` one, await what this returns."""
        return self.handler(event, *context)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.id!r} from {self.source}>"


AnyTrigger: TypeAlias = TriggerDefinition[Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class WebhookDefinition(TriggerDefinition[R]):
    """A webhook: a handler, where it listens, and how deliveries are verified."""

    kind: ClassVar[str] = "webhook"

    path: str
    verifier: Verifier
    secret_env: tuple[str, ...] | ChooseSecrets
    methods: tuple[str, ...]
    dedupe: Dedupe
    max_body: int
    parse: Parse
    lists: frozenset[str]
    decompress: bool
    allow_ips: AllowList
    rate: Rate | None

    def __repr__(self) -> str:
        return f"<webhook {self.id!r} at {self.path} from {self.source}>"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class ScheduleDefinition(TriggerDefinition[R]):
    """A trigger that is fired by the clock."""

    kind: ClassVar[str] = "schedule"

    schedule: Schedule


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class ManualDefinition(TriggerDefinition[R]):
    """A trigger that people fire: over the API, with the command, from the dashboard."""

    kind: ClassVar[str] = "manual"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class QueueDefinition(TriggerDefinition[R]):
    """A trigger whose events are a broker's messages."""

    kind: ClassVar[str] = "queue"

    broker: str
    url_env: str
    queue: str
    group: str
    prefetch: int
    parse: MessageParse
    dedupe: Dedupe
    max_body: int

    def __repr__(self) -> str:
        return f"<queue {self.id!r} of {self.queue} over {self.broker} from {self.source}>"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class FileWatchDefinition(TriggerDefinition[R]):
    """A watch over directories, whose files become events when they are finished."""

    kind: ClassVar[str] = "file-watch"

    paths: tuple[str, ...]
    selection: Selection
    on: tuple[FileChange, ...]
    debounce: float
    stability: Stability
    existing: Existing
    polling: bool
    poll_interval: float

    def __repr__(self) -> str:
        return f"<file-watch {self.id!r} over {', '.join(self.paths)} from {self.source}>"
