"""Job definitions: `@job` and `define_job_handler`."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import (
    Any,
    ClassVar,
    Generic,
    Protocol,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    get_args,
    get_origin,
    overload,
)

from netscript_workers.context import JobContext
from netscript_workers.defining import check_id, common_options, title
from netscript_workers.domain import (
    DEFAULT_PRIORITY,
    WORKER_RUNTIMES,
    ExecutionKind,
    LaneName,
    RuntimeName,
    TaskRuntime,
)
from netscript_workers.errors import ConfigurationError, nearest
from netscript_workers.options import check_names
from netscript_workers.payloads import PayloadModel
from netscript_workers.retries import Retry
from netscript_workers.schedules import CatchUp, Overlap, Schedule

P = TypeVar("P")
R = TypeVar("R")

_RETRY = Retry()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JobDefinition(Generic[P, R]):
    """A job: a handler and how to run it. A frozen value; importing it registers nothing.

    It stays callable with a context, so a handler is unit-tested without a runtime. `P` is the
    payload's type, `R` what calling the handler returns.
    """

    kind: ClassVar[ExecutionKind] = "job"

    handler: Callable[[JobContext[P]], R]
    id: str
    name: str
    description: str | None
    topic: str
    payload_model: PayloadModel[P]
    retry: Retry
    timeout: float | None
    runtime: RuntimeName | TaskRuntime | None
    priority: int
    strict_order: bool
    max_concurrency: int | None = None
    rate: str | None = None
    enabled: bool
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    schedule: Schedule | None = None
    is_async: bool
    source: str

    def __call__(self, ctx: JobContext[P]) -> R:
        """Call the handler itself; of an `async def` one, await what this returns."""
        return self.handler(ctx)

    def lane(self, default: RuntimeName) -> LaneName:
        """Return where its executions run, in a worker that runs others there."""
        return default if self.runtime is None else cast("RuntimeName", self.runtime)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.id!r} from {self.source}>"


class JobOptions(TypedDict, total=False):
    """The options of a job; `define_job_handler` says what each means."""

    id: str
    name: str
    description: str
    topic: str
    payload: Any
    retry: Retry
    timeout: float | None
    runtime: RuntimeName | None
    cron: str | None
    timezone: str
    catch_up: CatchUp
    overlap: Overlap
    jitter: float
    priority: int
    max_concurrency: int | None
    strict_order: bool
    rate: str | None
    enabled: bool
    tags: Iterable[str]
    metadata: Mapping[str, Any]


class _Decorator(Protocol):
    def __call__(self, handler: Callable[[JobContext[P]], R], /) -> JobDefinition[P, R]: ...


@overload
def job(handler: Callable[[JobContext[P]], R], /) -> JobDefinition[P, R]: ...
@overload
def job(**options: Unpack[JobOptions]) -> _Decorator: ...
def job(handler: Callable[..., Any] | None = None, /, **options: Unpack[JobOptions]) -> Any:
    """Make a job of an `async def` or `def` handler that takes a `JobContext`.

    Use it bare or with options. In an in-process worker a `def` handler runs in a thread; in a
    process of its own it runs on the main thread, where it can be ended.

    Args:
        handler: The function, when used bare.
        **options: Those of `define_job_handler`.

    Raises:
        ConfigurationError: The handler or an option can't work.
    """
    if handler is not None:
        bare: JobDefinition[Any, Any] = define_job_handler(handler)
        return bare

    def decorate(function: Callable[[JobContext[P]], R], /) -> JobDefinition[P, R]:
        return define_job_handler(function, **options)

    return decorate


def define_job_handler(
    handler: Callable[[JobContext[P]], R], **options: Unpack[JobOptions]
) -> JobDefinition[P, R]:
    """Make a job of a handler; the functional form of `@job`.

    Args:
        handler: An `async def` or `def` function of one `JobContext`.
        **options:
            id: Unique in the project; by default the function's name with dashes.
            name: For people; by default made from the id.
            description: By default the first line of the handler's docstring.
            topic: The group whose limits and pauses it shares; `"default"`.
            payload: The payload's type, where the signature doesn't say `JobContext[Model]`.
            retry: How often and how soon a failure is tried again; `Retry()`.
            timeout: Seconds an attempt may take, 60 by default; None for no limit.
            runtime: Where it runs, whatever the worker does with others: `"in-process"`,
                `"worker-process"` (a pool of interpreters) or `"subprocess"` (a fresh one each
                time). By default where the worker runs its jobs.
            cron: When it runs by itself, with an empty payload: five fields, or a name such as
                `@daily`.
            timezone: The zone of `cron`; UTC.
            catch_up: What becomes of the times that no scheduler was there for: `"latest"` fires
                the last of them, `"skip"` none, `"all"` the last 100.
            overlap: `"skip"` passes over a time while the execution of the one before is
                unfinished; `"allow"`.
            jitter: Seconds that it may start later, so that not all start at once; 0.
            priority: 0 to 100, 50 by default; higher first, equal ones first in, first out.
            max_concurrency: How many of its executions may run at a time, in all workers; no limit
                by default. Who waits for a place takes nothing from other jobs.
            strict_order: An execution with a concurrency key holds it until it is finished,
                through every backoff and snooze.
            rate: How many of its attempts may start in a time, spread evenly over it: `10/s`,
                `100/m`, `1000/h` or `5/d`; no limit by default. Waiting uses up no attempt.
            enabled: False refuses to enqueue it.
            tags: For filters.
            metadata: JSON for whoever reads the definition.

    Raises:
        ConfigurationError: The handler or an option can't work.
    """
    check_names(_owner(handler, options), options, JobOptions.__annotations__)
    return _define(handler, **options)


def _owner(handler: Any, options: Mapping[str, Any]) -> str:
    return f'job "{options.get("id") or getattr(handler, "__name__", "?")}"'


def _define(
    handler: Callable[..., Any],
    *,
    id: str | None = None,  # noqa: A002 - the contract's name
    name: str | None = None,
    description: str | None = None,
    topic: str = "default",
    payload: Any = None,
    retry: Retry = _RETRY,
    timeout: float | None = 60.0,
    runtime: RuntimeName | None = None,
    cron: str | None = None,
    timezone: str = "UTC",
    catch_up: CatchUp = "latest",
    overlap: Overlap = "allow",
    jitter: float = 0.0,
    priority: int = DEFAULT_PRIORITY,
    max_concurrency: int | None = None,
    strict_order: bool = False,
    rate: str | None = None,
    enabled: bool = True,
    tags: Iterable[str] = (),
    metadata: Mapping[str, Any] | None = None,
) -> JobDefinition[Any, Any]:
    source = _source_of(handler)
    job_id = id if id is not None else str(getattr(handler, "__name__", "")).replace("_", "-")
    owner = f'job "{job_id}"'
    check_id(owner, job_id, source)
    _check_handler(handler, owner, source)
    _check_runtime(owner, runtime)
    common = common_options(
        owner,
        name=name if name is not None else title(job_id),
        description=description if description is not None else _first_line(handler),
        topic=topic,
        payload=payload if payload is not None else _declared_payload(handler),
        retry=retry,
        timeout=timeout,
        cron=cron,
        timezone=timezone,
        catch_up=catch_up,
        overlap=overlap,
        jitter=jitter,
        priority=priority,
        max_concurrency=max_concurrency,
        strict_order=strict_order,
        rate=rate,
        enabled=enabled,
        tags=tags,
        metadata=metadata,
    )
    return JobDefinition(
        handler=handler,
        id=job_id,
        runtime="worker-process" if runtime == "web-worker" else runtime,
        is_async=_is_async(handler),
        source=source,
        **common,
    )


def _check_handler(handler: Callable[..., Any], owner: str, source: str) -> None:
    if isinstance(handler, JobDefinition):
        raise ConfigurationError(f"{owner} ({source}) is a job already.", hint="Decorate it once.")
    if not callable(handler):
        raise ConfigurationError(f"{owner}: the handler {handler!r} is not a function.")
    target = inspect.unwrap(handler)
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise ConfigurationError(
            f"{owner} ({source}): the handler is a generator.", hint="Return the result instead."
        )
    try:
        inspect.signature(handler).bind(object())
    except TypeError as error:
        raise ConfigurationError(
            f"{owner} ({source}): the handler must take one argument, the context.",
            hint="Write it as: async def handler(ctx: JobContext[Payload]).",
        ) from error
    except ValueError:  # a builtin without a signature: let the call decide
        return


def _check_runtime(owner: str, runtime: str | None) -> None:
    if runtime is not None and runtime not in (*WORKER_RUNTIMES, "web-worker"):
        close = nearest(runtime, WORKER_RUNTIMES)
        raise ConfigurationError(
            f"{owner}: there is no runtime {runtime!r}.",
            hint=f'Did you mean "{close}"?' if close else f"Use one of {WORKER_RUNTIMES}.",
        )


def _declared_payload(handler: Callable[..., Any]) -> Any:
    """Read Model out of `ctx: JobContext[Model]`; dict where nothing is declared."""
    target = inspect.unwrap(handler)
    if not inspect.isfunction(target) and not inspect.ismethod(target):
        target = type(target).__call__
    parameters = list(inspect.signature(handler).parameters.values())
    if not parameters:
        return dict
    try:
        # A frame's locals let models that are defined inside a function (a test) be found.
        hints = typing.get_type_hints(target, localns=_caller_locals())
    except NameError as error:
        raise ConfigurationError(
            f"The annotations of {_source_of(handler)} name what can't be found: {error}.",
            hint="Pass the type as payload=Model, or define the model before the handler.",
        ) from error
    hint = hints.get(parameters[0].name)
    if get_origin(hint) is JobContext:
        return get_args(hint)[0]
    return dict


def _caller_locals() -> dict[str, Any]:
    frame = sys._getframe(1)  # noqa: SLF001 - the one way to see the decorating function's names
    package = __name__
    while frame.f_back is not None and frame.f_globals.get("__name__") == package:
        frame = frame.f_back
    return dict(frame.f_locals)


def _is_async(handler: Callable[..., Any]) -> bool:
    target = inspect.unwrap(handler)
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(
        getattr(target, "__call__", None)  # noqa: B004 - an object with an async __call__
    )


def _first_line(handler: Callable[..., Any]) -> str | None:
    doc = inspect.getdoc(handler) if inspect.isroutine(handler) else None
    return doc.strip().splitlines()[0] if doc and doc.strip() else None


def _source_of(handler: Callable[..., Any]) -> str:
    module = getattr(handler, "__module__", "?")
    return f"{module}.{getattr(handler, '__qualname__', type(handler).__name__)}"
