"""File watches: `@file_watch` and `define_file_watch`."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, Required, TypedDict

from typing_extensions import TypeVar, Unpack

from netscript_triggers.circuits import Circuit
from netscript_triggers.defining import (
    DEFAULT_CIRCUIT,
    DEFAULT_RETRY,
    check_id,
    check_running,
    facts_of,
    takes_context,
)
from netscript_triggers.definitions import Actions, Existing, FileWatchDefinition
from netscript_triggers.events import CHANGES, FileChange
from netscript_triggers.files.globs import Globs, ignored_by
from netscript_triggers.files.scanning import Selection
from netscript_triggers.files.settling import Stability, check_seconds
from netscript_workers.errors import ConfigurationError
from netscript_workers.options import OptionError, check_names, check_type
from netscript_workers.retries import Retry

R = TypeVar("R", bound=Actions | Awaitable[Actions])

# Seconds between two looks at everything: beside notices of the file system, and without them.
RESCAN_SECONDS = 30.0
POLL_SECONDS = 5.0


class FileWatchOptions(TypedDict, total=False):
    """The options of a file watch; `define_file_watch` says what each means."""

    id: Required[str]
    paths: Required[Sequence[str | os.PathLike[str]]]
    patterns: Sequence[str]
    ignored: Sequence[str]
    on: Sequence[FileChange]
    debounce: float
    stability: Stability
    existing: Existing
    recursive: bool
    polling: bool
    poll_interval: float | None
    concurrency: int | None
    circuit: Circuit | None
    retry: Retry
    description: str | None


class _Decorator(Protocol):
    def __call__(self, handler: Callable[..., R], /) -> FileWatchDefinition[R]: ...


def file_watch(**options: Unpack[FileWatchOptions]) -> _Decorator:
    """Make a file watch of a function that takes an event and returns actions.

    Args:
        **options: Those of `define_file_watch`.

    Raises:
        ConfigurationError: The handler or an option can't work.
    """

    def decorate(handler: Callable[..., R], /) -> FileWatchDefinition[R]:
        return define_file_watch(handler, **options)

    return decorate


def define_file_watch(
    handler: Callable[..., R], **options: Unpack[FileWatchOptions]
) -> FileWatchDefinition[R]:
    """Make a file watch; the functional form of `@file_watch`.

    Each file that is finished becomes one event, whatever the number of servers and however often
    they are killed. The handler runs afterwards, as with `dispatch="background"`.

    Args:
        handler: A `def` or `async def` function of a `FileEvent` (and a `TriggerContext`, if it
            takes two arguments). It returns a list of actions, one action or None; what it raises
            fails the event, which is then tried again.
        **options:
            id: Unique in the project.
            paths: The directories; relative ones from the project on. One that is not there is
                waited for.
            patterns: Which files; `*.csv` is about the name, `in/**/*.csv` about the path below
                the directory. By default all.
            ignored: Which files and directories are passed over, beside temporary ones (`.*`,
                `*~`, `*.part`, `*.tmp`, ..) that no pattern names.
            on: What makes an event, of "create", "modify" and "delete".
            debounce: Seconds that must have passed since a file's last change.
            stability: When a file counts as finished.
            existing: What becomes of files that are there when a directory is first watched ever:
                "take" or "ignore".
            recursive: Whether directories in the directories are watched too.
            polling: Whether to go without notices of the file system, which network shares don't
                give.
            poll_interval: Seconds between two looks at everything; by default 30, and 5 with
                `polling`.
            concurrency: How many of its events are handled at a time, in all servers together.
            circuit: When its handler is left alone because it keeps failing; None for never.
            retry: How often and how soon a failing handler is tried again.
            description: By default the first line of the handler's docstring.

    Raises:
        ConfigurationError: The handler or an option can't work.
    """
    owner = f'file watch "{options.get("id", "?")}"'
    known = FileWatchOptions.__annotations__
    check_names(owner, options, known, required=("id", "paths"))
    check_id("file watch", options["id"])
    retry = options.get("retry", DEFAULT_RETRY)
    concurrency = options.get("concurrency")
    circuit = options.get("circuit", DEFAULT_CIRCUIT)
    check_running(owner, retry, concurrency, circuit)
    stability = options.get("stability", Stability())
    check_type(owner, "stability", stability, Stability, "a Stability, such as Stability(checks=2)")
    debounce = options.get("debounce", 0.0)
    check_seconds(owner, "debounce", debounce)
    for name in ("recursive", "polling"):
        check_type(owner, name, options.get(name, False), bool, "True or False")
    polling = options.get("polling", False)
    existing = options.get("existing", "take")
    if existing not in {"take", "ignore"}:
        raise OptionError(f'{owner}: existing={existing!r} must be "take" or "ignore".')
    return FileWatchDefinition(
        handler=handler,
        id=options["id"],
        model=None,
        dispatch="background",
        events=(),
        concurrency=concurrency,
        circuit=circuit,
        retry=retry,
        takes_context=takes_context(handler, owner),
        paths=_paths(owner, options["paths"]),
        selection=_selection(owner, options),
        on=_changes(owner, options.get("on", ("create", "modify"))),
        debounce=debounce,
        stability=stability,
        existing=existing,
        polling=polling,
        poll_interval=_interval(owner, options.get("poll_interval"), polling=polling),
        **facts_of(handler, options.get("description")),
    )


def _interval(owner: str, given: float | None, *, polling: bool) -> float:
    if given is None:
        return POLL_SECONDS if polling else RESCAN_SECONDS
    check_seconds(owner, "poll_interval", given)
    if given < 0.1:
        raise ConfigurationError(f"{owner}: poll_interval={given!r} must be 0.1 or more.")
    return given


def _several(owner: str, name: str, given: Any, example: str) -> tuple[str, ...]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        raise OptionError(
            f"{owner}: {name}={given!r} must be several.", hint=f"Write it as {name}={example}."
        )
    several: tuple[Any, ...] = tuple(given)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - users' values
    for one in several:
        if not isinstance(one, str) or not one or "\0" in one:
            raise OptionError(f"{owner}: {name} holds {one!r}.", hint=f"Use text, as in {example}.")
    return several


def _paths(owner: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
        several: list[Any] = list(given)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - users' values
        given = [os.fspath(one) if isinstance(one, os.PathLike) else one for one in several]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    paths = _several(owner, "paths", given, '["/data/inbox"]')
    if not paths:
        raise OptionError(f"{owner}: paths is empty.", hint='Name one: paths=["/data/inbox"].')
    return paths


def _selection(owner: str, options: FileWatchOptions) -> Selection:
    patterns = _several(owner, "patterns", options.get("patterns", ("*",)), '["*.csv"]')
    ignored = _several(owner, "ignored", options.get("ignored", ()), '["archive"]')
    if not patterns:
        raise OptionError(f"{owner}: patterns is empty.", hint='Name one: patterns=["*.csv"].')
    try:
        wanted = Globs(patterns)
        return Selection(
            patterns=wanted,
            ignored=ignored_by(wanted, ignored),
            recursive=options.get("recursive", True),
        )
    except re.error as error:
        raise OptionError(
            f"{owner}: a pattern can't be read: {error.msg}.", hint="Look at what stands in [ ]."
        ) from None


def _changes(owner: str, given: Any) -> tuple[FileChange, ...]:
    several = _several(owner, "on", given, '("create", "modify")')
    if not several or set(several) - set(CHANGES):
        raise OptionError(f"{owner}: on={given!r} must be some of {', '.join(CHANGES)}.")
    return tuple(change for change in CHANGES if change in several)
