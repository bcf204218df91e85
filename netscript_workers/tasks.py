"""Tasks: commands in any language, defined beside jobs and run as they are."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeAlias, TypedDict, TypeVar, Unpack, overload

from netscript_workers.context import JobContext
from netscript_workers.defining import check_id, common_options, title
from netscript_workers.domain import (
    DEFAULT_PRIORITY,
    TASK_RUNTIMES,
    ExecutionKind,
    LaneName,
    RuntimeName,
    TaskRuntime,
)
from netscript_workers.errors import ConfigurationError, nearest
from netscript_workers.jobs import JobDefinition
from netscript_workers.options import OptionError, check_names, check_type, is_storable
from netscript_workers.permissions import (
    VARIABLE,
    FromEnv,
    Limits,
    Permissions,
    PresetName,
    check_outside_deno,
    permissions_of,
)
from netscript_workers.results import JobResult
from netscript_workers.retries import Retry
from netscript_workers.schedules import CatchUp, Overlap

P = TypeVar("P")

EnvValue: TypeAlias = str | FromEnv

_RETRY = Retry()
_LIMITS = Limits()
_INLINE = ("shell", "powershell", "cmd")
_INTERPRETED = ("python", "deno", "node", "dotnet", "shell", "powershell")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class TaskDefinition(JobDefinition[P, JobResult]):
    """A task: a command and how to run it. A frozen value; importing it registers nothing.

    It goes wherever a job goes: `enqueue_job(task, …)`, `enqueue(session, …)`, batches, cron.
    """

    kind: ClassVar[ExecutionKind] = "task"

    entrypoint: str
    args: tuple[str, ...] = ()
    env: Mapping[str, EnvValue] = field(default_factory=dict[str, EnvValue])
    permissions: Permissions | None = None
    limits: Limits = _LIMITS
    interpreter: str | None = None
    venv: str | None = None
    module: bool = False
    inline: bool = False
    file: str

    def lane(self, default: RuntimeName) -> LaneName:
        """Return where its executions run: tasks have slots of their own."""
        return "task"


class _CommonOptions(TypedDict, total=False):
    args: Iterable[str]
    env: Mapping[str, EnvValue]
    permissions: Permissions | PresetName | Mapping[str, Any] | None
    limits: Limits
    interpreter: str | None
    venv: str | None
    module: bool
    inline: bool | None
    name: str
    description: str
    topic: str
    retry: Retry
    timeout: float | None
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


class TaskOptions(_CommonOptions, total=False):
    """The options of a task; `define_task` says what each means."""

    id: str
    runtime: TaskRuntime
    entrypoint: str
    payload: Any


@overload
def define_task(
    *,
    id: str,
    runtime: TaskRuntime,
    entrypoint: str,
    payload: type[P],
    **options: Unpack[_CommonOptions],
) -> TaskDefinition[P]: ...
@overload
def define_task(
    *, id: str, runtime: TaskRuntime, entrypoint: str, **options: Unpack[_CommonOptions]
) -> TaskDefinition[dict[str, Any]]: ...
def define_task(**options: Any) -> TaskDefinition[Any]:
    """Make a task of a command: argv and environment in, the last line of stdout out.

    Its payload comes as JSON in the variable `NETSCRIPT_PAYLOAD`. If the last line that it prints
    is a JSON object, that is its result. docs/tasks.md says all of it.

    Args:
        **options:
            id: Unique in the project, among jobs too.
            runtime: `"python"`, `"deno"`, `"node"`, `"dotnet"`, `"shell"`, `"powershell"`, `"cmd"`
                or `"executable"`.
            entrypoint: The file to run, relative to the project, or absolute. For `shell`,
                `powershell` and `cmd` also a command; for `executable` also a program on `PATH`.
            args: What follows it in argv.
            env: More variables: text, or `FromEnv("NAME")` for the value that the worker has.
            permissions: What it may do: `Permissions(…)` or `"none"`, `"read-only"`, `"network"`,
                `"full"`. By default nothing under Deno; elsewhere it runs unconfined, as the
                worker's user.
            limits: How much it may use; `Limits()`.
            interpreter: The program that runs the file, where it is not the one on `PATH` (for
                `python` the worker's own).
            venv: The folder of a virtual environment, for `python`.
            module: The entrypoint is a module, which `python -m` runs.
            inline: Whether the entrypoint is a command rather than a file; by default it is one if
                it holds a blank.
            payload: The payload's type; any JSON object by default.
            timeout: Seconds an attempt may take, 300 by default; None for no limit.
            name, description, topic, retry, cron, timezone, catch_up, overlap, jitter, priority,
                max_concurrency, strict_order, rate, enabled, tags, metadata: As for jobs.

    Raises:
        ConfigurationError: An option can't work, or a permission can't be enforced.
    """
    owner = f'task "{options.get("id", "?")}"'
    required = ("id", "runtime", "entrypoint")
    known = {**_CommonOptions.__annotations__, **TaskOptions.__annotations__}
    check_names(owner, options, known, required)
    return _define(owner, _caller(), **options)


def _define(
    owner: str,
    place: tuple[str, str],
    *,
    id: str,  # noqa: A002 - the contract's name
    runtime: TaskRuntime,
    entrypoint: str,
    args: Iterable[str] = (),
    env: Mapping[str, EnvValue] | None = None,
    permissions: Permissions | PresetName | Mapping[str, Any] | None = None,
    limits: Limits = _LIMITS,
    interpreter: str | None = None,
    venv: str | None = None,
    module: bool = False,
    inline: bool | None = None,
    payload: Any = dict,
    name: str | None = None,
    description: str | None = None,
    topic: str = "default",
    retry: Retry = _RETRY,
    timeout: float | None = 300.0,
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
) -> TaskDefinition[Any]:
    source, file = place
    check_id(owner, id, source)
    _check_runtime(owner, runtime)
    _check_text(owner, "entrypoint", entrypoint)
    is_inline = _is_inline(owner, runtime, entrypoint, inline)
    _check_interpreter(owner, runtime, interpreter, venv, module=module)
    if not is_inline and not module:
        check_inside(owner, "entrypoint", entrypoint)
    granted = permissions_of(owner, permissions)
    if granted is not None and runtime != "deno":
        check_outside_deno(owner, granted)
    check_type(owner, "limits", limits, Limits, "Limits(…)")
    common = common_options(
        owner,
        name=name if name is not None else title(id),
        description=description,
        topic=topic,
        payload=payload,
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
    return TaskDefinition(
        handler=_run_by_hand,
        id=id,
        runtime=runtime,
        entrypoint=entrypoint,
        args=_args(owner, args),
        env=_env(owner, env),
        permissions=granted,
        limits=limits,
        interpreter=interpreter,
        venv=venv,
        module=module,
        inline=is_inline,
        is_async=True,
        source=source,
        file=file,
        **common,
    )


def check_inside(owner: str, name: str, path: str) -> None:
    """Refuse a relative path that leads out of the project.

    Raises:
        ConfigurationError: It does.
    """
    depth = 0
    if Path(path).is_absolute():
        return
    for part in Path(path).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            raise ConfigurationError(
                f"{owner}: the {name} {path!r} leads out of the project.",
                hint="Write it relative to the project, or absolute.",
            )


def _run_by_hand(_ctx: JobContext[Any]) -> NoReturn:
    raise ConfigurationError(
        "A task runs in a process of its own.", hint="Test it with netscript_workers.testing."
    )


def _caller() -> tuple[str, str]:
    """Return the module that defines a task, and its file."""
    frame = sys._getframe(1)  # noqa: SLF001 - the one way to see who defines it
    while frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    names = frame.f_globals
    return str(names.get("__name__", "?")), str(names.get("__file__", ""))


def _check_runtime(owner: str, runtime: Any) -> None:
    if runtime not in TASK_RUNTIMES:
        close = nearest(str(runtime), TASK_RUNTIMES)
        raise ConfigurationError(
            f"{owner}: there is no runtime {runtime!r} for tasks.",
            hint=f'Did you mean "{close}"?' if close else f"Use one of {', '.join(TASK_RUNTIMES)}.",
        )


def _is_inline(owner: str, runtime: str, entrypoint: str, inline: Any) -> bool:
    can_be = runtime in _INLINE
    if inline is None:
        return can_be and len(entrypoint.split()) > 1
    check_type(owner, "inline", inline, bool, "True or False")
    if inline and not can_be:
        raise ConfigurationError(
            f"{owner}: inline is for {', '.join(_INLINE)}.", hint="Write the command into a file."
        )
    return bool(inline)


def _check_interpreter(
    owner: str, runtime: str, interpreter: str | None, venv: str | None, *, module: bool
) -> None:
    if interpreter is not None:
        _check_text(owner, "interpreter", interpreter)
        if runtime not in _INTERPRETED:
            raise ConfigurationError(f"{owner}: interpreter is for {', '.join(_INTERPRETED)}.")
    if venv is not None:
        _check_text(owner, "venv", venv)
        check_inside(owner, "venv", venv)
    check_type(owner, "module", module, bool, "True or False")
    if runtime != "python" and (venv is not None or module):
        raise ConfigurationError(f'{owner}: venv and module are for runtime="python".')
    if venv is not None and interpreter is not None:
        raise ConfigurationError(f"{owner}: give venv or interpreter, not both.")


def _check_text(owner: str, name: str, value: Any) -> None:
    check_type(owner, name, value, str, "text")
    if not value or not is_storable(value):
        raise ConfigurationError(f"{owner}: {name}={value!r} must be text that argv can hold.")


def _args(owner: str, args: Iterable[str]) -> tuple[str, ...]:
    if isinstance(args, str):  # its letters would be the arguments
        raise OptionError(f"{owner}: args={args!r} must be several.", hint=f"Write [{args!r}].")
    kept = tuple(args)
    for one in kept:
        check_type(owner, "args", one, str, "a list of texts")
        if not is_storable(one):
            raise ConfigurationError(f"{owner}: args: {one!r} is nothing that argv can hold.")
    return kept


def _env(owner: str, env: Mapping[str, EnvValue] | None) -> Mapping[str, EnvValue]:
    check_type(owner, "env", env or {}, Mapping, "a mapping of names to texts")
    kept = dict(env or {})
    for name, value in kept.items():
        check_type(owner, "env", name, str, "a mapping of names to texts")
        if not VARIABLE.fullmatch(name):
            raise ConfigurationError(f"{owner}: env: {name!r} is no name of a variable.")
        check_type(owner, f"env[{name!r}]", value, (str, FromEnv), 'text, or FromEnv("NAME")')
        if isinstance(value, str) and not is_storable(value):
            raise ConfigurationError(f"{owner}: env: {name} holds what no variable can.")
    return kept
