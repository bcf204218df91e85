"""What a task may do and use: `Permissions`, `Limits`, `FromEnv`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

from netscript_workers.errors import ConfigurationError, nearest
from netscript_workers.options import OptionError, is_storable

Grant: TypeAlias = bool | tuple[str, ...]  # an empty list is kept as False
PermissionName: TypeAlias = Literal["net", "read", "write", "env", "run", "ffi", "import_"]
PresetName: TypeAlias = Literal["none", "read-only", "network", "full"]

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """What a task may do. Everything that is not granted is refused.

    Each is True for all, False for nothing, or a list. Deno enforces them all by itself. Elsewhere
    a sandbox enforces the first four, with True or False only for `net`; what it can't tell apart
    is refused when the task is defined.

    Args:
        net: The network; hosts such as `"api.example.com:443"`, for Deno.
        read: Files and folders that it may read, relative to the project.
        write: Files and folders that it may read and write, relative to the project.
        env: Variables of the worker that it may see, by name. Secrets of the worker are left out
            all the same; hand them over with `env={"KEY": FromEnv("KEY")}`.
        run: Programs that it may start. By default none under Deno; elsewhere those that it can
            read, inside the same sandbox.
        ffi: Native libraries that it may load; as `run`.
        import_: Hosts that modules may come from; as `run`.

    Raises:
        OptionError: A value is no grant.
    """

    net: bool | Iterable[str] = False
    read: bool | Iterable[str] = False
    write: bool | Iterable[str] = False
    env: bool | Iterable[str] = False
    run: bool | Iterable[str] | None = None
    ffi: bool | Iterable[str] | None = None
    import_: bool | Iterable[str] | None = None

    def __post_init__(self) -> None:
        """Refuse what is no grant, and keep lists as tuples."""
        for one in fields(self):
            value = getattr(self, one.name)
            if value is None and one.default is None:
                continue
            object.__setattr__(self, one.name, _grant(one.name, value))

    def of(self, name: PermissionName) -> Grant | None:
        """Return a grant; None where nothing was said."""
        value: Grant | None = getattr(self, name)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a task may use; None lifts a limit.

    Args:
        memory_mib: Of memory, for each of its processes and for all of them together.
        processes: Processes at a time, threads not counted.
        open_files: Open files, for each process.
        file_mib: The size of a file that it writes.
        cpu_seconds: Processor time, for each process.

    Raises:
        OptionError: A value is no whole number above zero.
    """

    memory_mib: int | None = 2048
    processes: int | None = 256
    open_files: int | None = 1024
    file_mib: int | None = 4096
    cpu_seconds: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no limit."""
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None and (type(value) is not int or not 0 < value < 2**31):
                raise OptionError(
                    f"Limits({one.name}={value!r}) must be a whole number above zero.",
                    hint="None lifts the limit.",
                )


@dataclass(frozen=True, slots=True)
class FromEnv:
    """A variable of the worker, whose value a task is to have: `env={"KEY": FromEnv("KEY")}`.

    It is read when the task starts. Where it is not set, the task does not run.
    """

    name: str

    def __post_init__(self) -> None:
        """Refuse what is no name."""
        given: Any = self.name
        if not isinstance(given, str) or not VARIABLE.fullmatch(given):
            raise OptionError(f"FromEnv({self.name!r}) is no name of a variable.")


def permissions_of(
    owner: str, given: Permissions | PresetName | Mapping[str, Any] | None
) -> Permissions | None:
    """Return the permissions that an option says: a value, a preset's name, a table, or None.

    Raises:
        ConfigurationError: There is no such preset, or no such permission.
    """
    if given is None or isinstance(given, Permissions):
        return given
    if isinstance(given, str):
        if given not in PRESETS:
            close = nearest(given, PRESETS)
            raise OptionError(
                f"{owner}: there is no preset {given!r} of permissions.",
                hint=f'Did you mean "{close}"?' if close else f"There are: {', '.join(PRESETS)}.",
            )
        return PRESETS[given]
    if not isinstance(given, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - what users pass
        raise OptionError(
            f"{owner}: permissions={given!r} must be Permissions(…) or the name of a preset."
        )
    names = {one.name for one in fields(Permissions)}
    named = {"import_" if name == "import" else name: value for name, value in given.items()}
    for name in named:
        if name not in names:
            close = nearest(name, names)
            raise OptionError(
                f'{owner}: there is no permission "{name}".',
                hint=f'Did you mean "{close}"?' if close else None,
            )
    return Permissions(**named)


def check_outside_deno(owner: str, granted: Permissions) -> None:
    """Refuse permissions that only Deno can enforce.

    Raises:
        ConfigurationError: One of them is asked for.
    """
    if not isinstance(granted.net, bool):
        raise ConfigurationError(
            f"{owner}: net={list(granted.net)!r} can't be enforced outside Deno.",
            hint='Use net=True or net=False, or runtime="deno".',
        )
    for name in ("run", "ffi", "import_"):
        value = getattr(granted, name)
        if value is not None and value is not True:
            shown = value if isinstance(value, bool) else list(value)
            raise ConfigurationError(
                f"{owner}: {name}={shown!r} can't be enforced outside Deno.",
                hint=f'Leave {name} out, or use runtime="deno".',
            )


def _grant(name: str, value: Any) -> Grant:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise OptionError(
            f"Permissions({name}={value!r}) must be True, False or a list.",
            hint=f"Write [{value!r}]." if isinstance(value, str) else None,
        )
    kept: tuple[Any, ...] = tuple(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - checked below
    for one in kept:
        # A comma would end the entry where Deno reads it, and begin another.
        if not isinstance(one, str) or not one or "," in one or not is_storable(one):
            raise OptionError(
                f"Permissions({name}=…): {one!r} must be text, without commas.",
            )
    return kept or False


PRESETS: Mapping[PresetName, Permissions] = {
    "none": Permissions(),
    "read-only": Permissions(read=(".",)),
    "network": Permissions(net=True),
    "full": Permissions(
        net=True, read=True, write=True, env=True, run=True, ffi=True, import_=True
    ),
}
