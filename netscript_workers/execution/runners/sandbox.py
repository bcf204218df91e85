"""What holds a task to its permissions: Deno's own flags, and bubblewrap for all others."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from netscript_workers.errors import TaskRefusedError
from netscript_workers.execution.runners.minder import NOT_EXECUTABLE, NOT_FOUND
from netscript_workers.permissions import Grant, Permissions

_PROBE_SECONDS = 10.0
_NPM = "registry.npmjs.org"
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
# Of /etc only what programs need to start and to find others: it may hold secrets, too.
_ETC = (
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "timezone"),
    *("passwd", "group", "nsswitch.conf", "ssl/certs", "ssl/openssl.cnf", "ca-certificates"),
    *("pki/tls", "pki/ca-trust", "mime.types", "services", "protocols"),
)
_ETC_OF_THE_NET = ("resolv.conf", "hosts", "host.conf", "gai.conf")
_APART = (
    *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts"),
    *("--unshare-cgroup-try", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Bubblewrap on this machine, which works.

    Attributes:
        program: Its absolute path.
        sizes: Whether it can bound a file system in memory.
    """

    program: str
    sizes: bool = True


_found: dict[str | None, Sandbox] = {}


def find_sandbox(path: str | None) -> Sandbox:
    """Return the sandbox of this machine, looked for and tried out once.

    Raises:
        TaskRefusedError: There is none, or the system does not let it work.
    """
    if path not in _found:
        _found[path] = _try_out(path)
    return _found[path]


def _try_out(path: str | None) -> Sandbox:
    program = shutil.which("bwrap", path=path)
    if program is None:
        raise TaskRefusedError(
            "Its permissions can't be enforced: there is no bubblewrap (bwrap) on this machine.",
            exit_code=NOT_FOUND,
            hint="Install it: apt-get install bubblewrap",
        )
    trial = [program, *_APART, "--unshare-net", "--ro-bind", "/", "/", "--dev", "/dev"]
    try:
        told = subprocess.run(
            [program, "--help"], check=False, capture_output=True, timeout=_PROBE_SECONDS
        )
        done = subprocess.run(
            [*trial, "--proc", "/proc", "/bin/true"],
            check=False,
            capture_output=True,
            timeout=_PROBE_SECONDS,
            env={},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        cause = type(error).__name__
        raise TaskRefusedError(
            f"Its permissions can't be enforced: bubblewrap does not start ({cause}).",
            exit_code=NOT_EXECUTABLE,
        ) from error
    if done.returncode:
        last = done.stderr.decode("utf-8", "backslashreplace").strip().splitlines()[-1:]
        raise TaskRefusedError(
            f"Its permissions can't be enforced: bubblewrap fails here ({''.join(last)[:200]}).",
            exit_code=NOT_EXECUTABLE,
            hint="Allow user namespaces; in a container that takes its own security options.",
        )
    return Sandbox(program, sizes=b"--size" in told.stdout)


def wrap(
    sandbox: Sandbox,
    permissions: Permissions,
    argv: Sequence[str],
    *,
    project: Path,
    files: Collection[str],
    memory: int | None,
) -> tuple[str, ...]:
    """Return the argv that runs a command inside the sandbox.

    Args:
        sandbox: Bubblewrap.
        permissions: What the command may do.
        argv: The command.
        project: Its folder; of what is in it, only what is granted is there.
        files: What the command can't do without.
        memory: The most bytes that its private file system may hold.

    Raises:
        TaskRefusedError: A path that is granted is not there.
    """
    place = project.absolute()
    size = ("--size", str(memory)) if memory is not None and sandbox.sizes else ()
    apart = _APART if permissions.net else (*_APART, "--unshare-net")
    sees_all = permissions.read is True or permissions.write is True
    view = _all_of_it(permissions, place, size) if sees_all else _little(permissions, size)
    flags = [*apart, *view]
    if sees_all:  # and what lies below the private /tmp
        flags += _bind("--ro-bind", files, place)
    else:
        flags += _inside_project(permissions, place, files)
    return (sandbox.program, *flags, "--chdir", str(place), "--", *argv)


def _all_of_it(permissions: Permissions, place: Path, size: Sequence[str]) -> Iterator[str]:
    flag = "--bind" if permissions.write is True else "--ro-bind"
    yield from (flag, "/", "/", *_private(size))
    if not permissions.net:
        # Sockets of daemons are files there; whoever may not use the network may not use them.
        yield from ("--tmpfs", "/run")
    yield from (flag, str(place), str(place))
    yield from _bind("--bind", _granted(permissions.of("write"), place), place)


def _little(permissions: Permissions, size: Sequence[str]) -> Iterator[str]:
    yield from _system(net=bool(permissions.net))
    yield from _private(size)


def _inside_project(permissions: Permissions, place: Path, files: Collection[str]) -> list[str]:
    """Hide the project, wherever it lies, and show what of it is needed or granted."""
    outer = [one for one in files if place.is_relative_to(one)]
    readable = _granted(permissions.of("read"), place)
    writable = _granted(permissions.of("write"), place)
    flags = [*_bind("--ro-bind", outer, place), "--tmpfs", str(place)]
    flags += _bind("--ro-bind", [one for one in files if one not in outer], place)
    flags += _bind("--ro-bind", readable, place) + _bind("--bind", writable, place)
    # What is no bind is memory, which the task could fill.
    if str(place) not in {*readable, *writable}:
        flags += ["--remount-ro", str(place)]
    return [*flags, "--remount-ro", "/"]


def _private(size: Sequence[str]) -> Iterator[str]:
    """Devices that are harmless, its own processes, and two places in memory to write to."""
    yield from ("--dev", "/dev", *size, "--tmpfs", "/dev/shm", "--remount-ro", "/dev")  # noqa: S108 - inside
    yield from ("--proc", "/proc", *size, "--tmpfs", "/tmp")  # noqa: S108 - as above


def _system(*, net: bool) -> Iterator[str]:
    for name in _SYSTEM:
        path = Path(name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), name)
        elif path.is_dir():
            yield from ("--ro-bind", name, name)
    for name in (*_ETC, *(_ETC_OF_THE_NET if net else ())):
        path = Path("/etc", name)
        if path.exists():
            yield from ("--ro-bind", str(path.resolve()), str(path))


def _bind(flag: str, paths: Collection[str], project: Path) -> list[str]:
    found: list[str] = []
    for path in sorted(set(paths)):  # the outer before the inner
        is_there = any(Path(path).is_relative_to(one) for one in _SYSTEM)
        if flag == "--bind" or not is_there or Path(path).is_relative_to(project):
            found += [flag, path, path]
    return found


def _granted(grant: Grant | None, place: Path) -> list[str]:
    if isinstance(grant, bool) or grant is None:
        return []
    paths = [os.path.normpath(place / one) for one in grant]
    for path in paths:
        if not Path(path).exists():
            raise TaskRefusedError(
                f"It may use {path}, which is not there.",
                exit_code=NOT_FOUND,
                hint="Make it, or take it off its permissions.",
            )
    return paths


def deno_flags(
    permissions: Permissions | None, *, project: Path, files: Sequence[str], env: Collection[str]
) -> tuple[str, ...]:
    """Return the flags that grant a Deno program exactly what it may do.

    Args:
        permissions: What it may do; None for nothing.
        project: What its paths are relative to.
        files: Files that it may read in any case: its entrypoint and its payload.
        env: Variables that it may read in any case: those that it is given.

    Raises:
        TaskRefusedError: A path can't be written in a flag.
    """
    given = permissions or Permissions()
    place = project.absolute()
    flags: list[str] = []
    own = _Paths(place, files)
    flags += _flag("read", own.add(given.of("read")))
    flags += _flag("write", own.only(given.of("write")))
    flags += _flag("net", given.of("net"))
    names = given.of("env")
    flags += _flag("env", True if names is True else (*sorted({*env, *(names or ())}),))
    flags += _flag("run", given.of("run"))
    ffi = given.of("ffi")
    flags += _flag("ffi", own.only(ffi))
    flags += _imports(given.of("import_"))
    return tuple(flags)


def _imports(grant: Grant | None) -> list[str]:
    if grant is None or grant is False:
        # Deno lets modules in from its own hosts unless it is told otherwise.
        return ["--deny-import", "--no-remote", "--no-npm"]
    flags = _flag("import", grant)
    return flags if grant is True or _NPM in grant else [*flags, "--no-npm"]


def _flag(name: str, grant: Grant | None) -> list[str]:
    if not grant:
        return []
    return [f"--allow-{name}" if isinstance(grant, bool) else f"--allow-{name}={','.join(grant)}"]


class _Paths:
    """Paths as Deno's flags name them: absolute, with commas between them."""

    def __init__(self, place: Path, always: Sequence[str]) -> None:
        self._place = place
        self._always = always

    def only(self, grant: Grant | None) -> Grant | None:
        return grant if isinstance(grant, bool | None) else self._named(grant, ())

    def add(self, grant: Grant | None) -> Grant:
        return True if grant is True else self._named(grant or (), self._always)

    def _named(self, grant: Sequence[str], always: Sequence[str]) -> tuple[str, ...]:
        named = (*always, *(os.path.normpath(self._place / one) for one in grant))
        for path in named:
            if "," in path:
                raise TaskRefusedError(
                    f"Deno can't be granted {path}, for there is a comma in it.",
                    exit_code=NOT_EXECUTABLE,
                    hint="Rename the folder.",
                )
        return named
