"""Runs commands of `netscript` in processes forked from one that has imported everything.

To import it all takes a second, and the tests run a hundred commands. Everything else is as a
user's shell would do it: arguments, environment, folder, streams and exit code of a process.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn

_SECONDS = 60
# What commands import when they run.
_IMPORTED = (
    "netscript_triggers.app",
    "netscript_triggers.cli",
    "netscript_workers.app",
    "netscript_workers.store.explain",
    "netscript_workers.store.migrations",
)


class CommandServer:
    """A process that forks one for each command. Used by one thread."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start it with what every command inherits."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=Path(__file__).parents[1],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        atexit.register(self._process.kill)

    def run(
        self, command: tuple[str, ...], cwd: Path, env: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as place:
            out, err = Path(place, "out"), Path(place, "err")
            order = {
                "command": command,
                "cwd": str(cwd),
                "env": dict(env),
                "out": str(out),
                "err": str(err),
            }
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(
                command, code, out.read_text(errors="replace"), err.read_text(errors="replace")
            )


def _serve(orders: IO[bytes], answers: IO[bytes]) -> None:
    for name in _IMPORTED:
        import_module(name)
    for line in orders:
        pid = os.fork()
        if pid == 0:
            _become(json.loads(line))
        _, status = os.waitpid(pid, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        answers.flush()


def _become(order: Any) -> NoReturn:
    from netscript_triggers.cli import main

    for number, name in ((1, order["out"]), (2, order["err"])):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(order["cwd"])
    sys.path[0] = order["cwd"]
    os.environ.update(order["env"])
    signal.alarm(_SECONDS)  # one that hangs must not hang those behind it
    sys.argv = ["netscript", *order["command"]]
    code: Any = 0
    try:
        main()
    except SystemExit as left:
        code = left.code
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    _serve(sys.stdin.buffer, os.fdopen(os.dup(1), "wb"))
