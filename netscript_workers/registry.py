"""Discovery: collecting the definitions that a project's folders hold."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

from netscript_workers.errors import (
    ConfigurationError,
    DiscoveryError,
    DuplicateIdError,
    JobNotFoundError,
)
from netscript_workers.jobs import JobDefinition


class Definition(Protocol):
    """What can be collected."""

    @property
    def id(self) -> str:
        """Unique among its kind."""
        ...

    @property
    def source(self) -> str:
        """Where it was written."""
        ...


D = TypeVar("D", bound=Definition)


def collect(
    project_dir: Path, folder: str, kind: type[D], *, tasks: str | None = None
) -> dict[str, D]:
    """Import every module of a folder and return the definitions of a kind, by id.

    The project's own folder comes first on `sys.path`, so that a job and a trigger that imports it
    see one and the same module. A definition that several modules hold is one definition.

    Args:
        project_dir: The project.
        folder: A package of the project, such as `jobs`; empty if it does not exist.
        kind: The class of the definitions.
        tasks: Another such package, of which only files are imported that say `define_task`: the
            others are what tasks run.

    Raises:
        DiscoveryError: A module can't be imported; the message says where and why.
        DuplicateIdError: Two definitions have one id.
    """
    found: dict[str, D] = {}
    files: dict[str, str] = {}
    modules = import_folder(project_dir, folder)
    if tasks is not None and tasks != folder:
        own_folder(project_dir, tasks)  # for a job may import one of them
        modules = chain(modules, import_folder(project_dir, tasks, _defines_tasks))
    for module in modules:
        for definition in _definitions(module, kind):
            other = found.setdefault(definition.id, definition)
            file = files.setdefault(definition.id, _file(module, project_dir))
            if other is not definition:
                raise DuplicateIdError(
                    f'Two definitions are called "{definition.id}": {other.source} in {file} '
                    f"and {definition.source} in {_file(module, project_dir)}.",
                    hint="Give one of them another id.",
                )
    return dict(sorted(found.items()))


def _file(module: ModuleType, project_dir: Path) -> str:
    path = Path(str(module.__file__))
    root = project_dir.absolute()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def discover_jobs(
    project_dir: Path, folder: str = "jobs", tasks: str = "tasks"
) -> Mapping[str, JobDefinition[Any, Any]]:
    """Return the jobs and tasks of a project by id.

    Args:
        project_dir: The project.
        folder: Where its jobs are.
        tasks: Where its tasks are.

    Raises:
        DiscoveryError: A module can't be imported.
        DuplicateIdError: Two of them have one id.
    """
    kind: type[JobDefinition[Any, Any]] = JobDefinition
    return collect(project_dir, folder, kind, tasks=tasks)


def index_jobs(jobs: Iterable[JobDefinition[Any, Any]]) -> Mapping[str, JobDefinition[Any, Any]]:
    """Return jobs by id.

    Raises:
        DuplicateIdError: Two different ones have one id.
        ConfigurationError: One is no job.
    """
    found: dict[str, JobDefinition[Any, Any]] = {}
    for one in jobs:
        if not isinstance(one, JobDefinition):  # pyright: ignore[reportUnnecessaryIsInstance] - what callers pass
            raise ConfigurationError(f"{one!r} is no job.", hint="Make it one with @job.")
        if found.setdefault(one.id, one) is not one:
            raise DuplicateIdError(
                f'Two jobs are called "{one.id}".', hint="Give one of them another id."
            )
    return found


def job_named(jobs: Mapping[str, JobDefinition[Any, Any]], job_id: str) -> JobDefinition[Any, Any]:
    """Return a job by its id.

    Raises:
        JobNotFoundError: There is none; the error names the nearest.
    """
    if job_id not in jobs:
        raise JobNotFoundError(job_id, jobs)
    return jobs[job_id]


def import_folder(
    project_dir: Path, folder: str, wanted: Callable[[Path], bool] = lambda _: True
) -> Iterator[ModuleType]:
    """Import the modules of a project's folder by their dotted names, in alphabetical order.

    Args:
        project_dir: The project.
        folder: The folder.
        wanted: Which of its files are imported.

    Raises:
        DiscoveryError: One can't be imported.
        ConfigurationError: The folder's name is no package name, or lies outside the project.
    """
    parts = own_folder(project_dir, folder)
    root = project_dir.absolute().joinpath(*parts)
    if not root.is_dir():
        return
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _is_private(relative) or not wanted(path):
            continue
        names = [*parts, *relative.with_suffix("").parts]
        if names[-1] == "__init__":
            names.pop()
        yield _import(".".join(names), path)


def own_folder(project_dir: Path, folder: str) -> tuple[str, ...]:
    """Make sure that a folder's name means the project's, for whoever imports it.

    Raises:
        ConfigurationError: The folder's name is no package name, or lies outside the project.
    """
    parts = Path(folder).parts
    if not parts or not all(part.isidentifier() for part in parts):
        raise ConfigurationError(
            f"The folder {folder!r} can't be imported.",
            hint="Name a folder inside the project, such as jobs or shop/jobs.",
        )
    if project_dir.absolute().joinpath(*parts).is_dir():
        _put_first(str(project_dir.absolute()))
        _own_package(project_dir.absolute(), parts)
    return parts


def _defines_tasks(path: Path) -> bool:
    try:
        return b"define_task" in path.read_bytes()
    except OSError:  # the importer says what is wrong with it
        return True


def _is_private(path: Path) -> bool:
    parts = path.parts[:-1] if path.name == "__init__.py" else path.parts
    return any(part.startswith((".", "_")) for part in parts)


def _put_first(place: str) -> None:
    if sys.path[:1] != [place]:
        sys.path[:] = [place, *(entry for entry in sys.path if entry != place)]


def _own_package(project_dir: Path, parts: Iterable[str]) -> None:
    """Make sure that `jobs` means the project's folder.

    A folder without `__init__.py` would lose to any installed package of the same name, and one
    that another project of this process has imported would hide this one.
    """
    place, name = project_dir, ""
    for part in parts:
        place, name = place / part, f"{name}.{part}" if name else part
        known = sys.modules.get(name)
        if known is not None and str(place) in [str(entry) for entry in _paths(known)]:
            continue
        for stale in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
            del sys.modules[stale]
        if (place / "__init__.py").exists():
            importlib.invalidate_caches()
            continue
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(place)]
        sys.modules[name] = importlib.util.module_from_spec(spec)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, sys.modules[name])


def _paths(module: ModuleType) -> list[str]:
    return list(getattr(module, "__path__", []))


def _import(name: str, path: Path) -> ModuleType:
    try:
        module = importlib.import_module(name)
    except (DiscoveryError, DuplicateIdError):
        raise
    except ConfigurationError as error:
        told = f"{_place_of(error, path)}: {error.message}"
        raise DiscoveryError(told, hint=error.hint) from error
    except (Exception, SystemExit) as error:
        place = _place_of(error, path)
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        raise DiscoveryError(f"{place}: {type(error).__name__}: {said}".rstrip(": ")) from error
    return module


def _place_of(error: BaseException, path: Path) -> str:
    """Name the user's own line that failed, not ours or the importer's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == str(path)]
    return f"{path}, line {own[-1].lineno}" if own else str(path)


def _definitions(module: ModuleType, kind: type[D]) -> Iterator[D]:
    for value in list(vars(module).values()):
        if isinstance(value, kind):
            yield value
