"""Webhooks accepted by one server process, against a bare route in the same server.

And those of one webhook while the handlers of another one block.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import psycopg

from benchmarks import processes, stores
from benchmarks.environments import python_of
from benchmarks.machine import Watch, cpu_seconds
from benchmarks.processes import ContestantError
from benchmarks.roster import OURS_PG, OURS_SQLITE
from benchmarks.stores import HOME, ROOT, Kind
from benchmarks.table import Sample

CONNECTIONS = 64
# While handlers of another webhook block, each for 200 ms: connections to either.
_BESIDE = 8
_BLOCKED = 64
BARE = "bare route"
# More than any server here takes in a second: nobody is sent the same body twice.
MOST_PER_SECOND = 25_000
_FIRST = 1_000_000_000
_WARM_UP_SECONDS = 1.0
PROJECT = ROOT / "benchmarks" / "project"
_SECRET = "whsec_bench"  # the same is in every request that is signed here
_COUNT = """SELECT
    (SELECT count(*) FROM netscript_trigger_events WHERE status = 'completed'),
    (SELECT count(*) FROM netscript_executions WHERE job_id = 'noop')"""
_CONTESTANTS: tuple[tuple[str, Kind | None], ...] = (
    (BARE, None),
    (OURS_SQLITE, "sqlite"),
    (OURS_PG, "postgres"),
)


# A file of requests, and how long each of them is.
Requests: TypeAlias = tuple[Path, int]


@dataclass(slots=True)
class Acceptance:
    """Rounds of load on one server after the other."""

    seconds: float
    samples: list[Sample] = field(default_factory=list[Sample])
    faults: list[str] = field(default_factory=list[str])
    generator_cpu: list[float] = field(default_factory=list[float])
    warm_up: Requests = field(init=False)
    _alone: Requests = field(init=False)
    measured: Requests = field(init=False)
    _beside: Requests = field(init=False)
    _blocked: Requests = field(init=False)

    def __post_init__(self) -> None:
        """Sign what will be sent, for the warm-up and for each measurement."""
        count = round(MOST_PER_SECOND * max(self.seconds, _WARM_UP_SECONDS))
        starts = iter(range(_FIRST, _FIRST + 10 * count, count))

        def signed(name: str, path: str = "/hook") -> Requests:
            start = next(starts)
            return _sign(name, path, range(start, start + count))

        self.warm_up, self._alone = signed("warm-up"), signed("alone")
        self.measured, self._beside = signed("measured"), signed("beside")
        self._blocked = signed("blocked", "/slow")

    def round(self, without: set[Kind]) -> None:
        """Measure every server once."""
        for name, kind in _CONTESTANTS:
            if kind in without:
                continue
            try:
                self._visit(name, kind)
            except (ContestantError, OSError) as error:
                self.faults.append(f"{name}, accept: {error}")

    def _visit(self, name: str, kind: Kind | None) -> None:
        with contextlib.ExitStack() as stack:
            url = stack.enter_context(stores.fresh(kind, f"accept-{kind}")) if kind else ""
            process, port = stack.enter_context(_server(url))
            wait_until_open(process, port)
            send(port, self.warm_up, _WARM_UP_SECONDS)
            stored, before, own = _stored(url), cpu_seconds(process.pid), _children_cpu()
            with Watch() as watch:
                told = send(port, self.measured, self.seconds)
            cpu = cpu_seconds(process.pid) - before
            self.generator_cpu.append((_children_cpu() - own) / self.seconds)
            if told["refused"] or told["broken"]:
                raise ContestantError(f"{told['refused']} refused, {told['broken']} broken off")
            # Those that were under way when the load ended are stored, too.
            stored = _stored(url) - stored
            if url and not 0 <= stored - told["requests"] <= 2 * CONNECTIONS:
                raise ContestantError(f"{told['requests']} accepted, {stored} stored")
            values = {"accept-cpu": 1e6 * cpu / told["requests"], **_figures("accept", told)}
            values |= _figures("accept-1", send(port, self._alone, self.seconds, 1))
            if url:
                values["accept-beside-p99"] = self._visit_beside(port)["p99"]
            for measure, value in values.items():
                self.samples.append(Sample(name, measure, value, watch.steal, watch.load))

    def _visit_beside(self, port: int) -> dict[str, float]:
        """Load one webhook while as many as the server takes wait for the handlers of another."""
        line = _generator(port, self._blocked, self.seconds + 1.0, _BLOCKED)
        with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL) as other:
            time.sleep(0.5)
            told = send(port, self._beside, self.seconds, _BESIDE)
            if other.wait(30) or told["refused"] or told["broken"]:
                raise ContestantError("some were refused beside handlers that block")
        return told


def _figures(measure: str, told: dict[str, float]) -> dict[str, float]:
    rate = told["requests"] / (told["microseconds"] / 1e6)
    return {measure: rate, f"{measure}-p50": told["p50"], f"{measure}-p99": told["p99"]}


@contextlib.contextmanager
def _server(url: str) -> Generator[tuple[subprocess.Popen[str], int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environ = processes.environment(url, BENCH_SECRET=_SECRET)
    if url:
        environ["NETSCRIPT_DATABASE_URL"] = url
        line = [python_of("ours"), "-m", "benchmarks.contestants.ours", "setup"]
        subprocess.run(line, check=True, cwd=ROOT, env=environ, capture_output=True)
        command = ["-m", "netscript_triggers", "serve", "--project", str(PROJECT)]
        command += ["--port", str(port), "--log-level", "warning"]
    else:
        command = ["-m", "benchmarks.contestants.bare", str(port)]
    with processes.program([sys.executable, *command], environ) as process:
        yield process, port


def wait_until_open(process: subprocess.Popen[str], port: int) -> None:
    """Wait until a process listens."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if process.poll() is not None:
            errors = process.communicate()[1].strip().splitlines()[-1:]
            raise ContestantError(f"the server ended: {errors}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise ContestantError("the server does not listen after 20 s")


def _sign(name: str, path: str, numbers: Iterable[int]) -> Requests:
    """Write signed requests, all of one length, to a file."""
    signed = [_request(path, number) for number in numbers]
    file = HOME / "data" / f"{name}.http"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(signed))
    return file, len(signed[0])


def _request(path: str, number: int) -> bytes:
    body = json.dumps(
        {"sent": number, "orderId": f"order-{number}", "amountCents": 4200, "currency": "EUR"}
    ).encode()
    signature = hmac.digest(_SECRET.encode(), body, "sha256").hex()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"X-NetScript-Signature: sha256={signature}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _generator(port: int, requests: Requests, seconds: float, connections: int) -> list[str]:
    path, length = requests
    if shutil.which("wrk"):
        script = str(Path(__file__).with_name("accept.lua"))
        line = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", script]
        return [*line, f"http://127.0.0.1:{port}/", "--", str(path), str(length)]
    line = [sys.executable, "-m", "benchmarks.load", str(port), str(path), str(length)]
    return [*line, str(connections), str(seconds)]


def send(
    port: int, requests: Requests, seconds: float, connections: int = CONNECTIONS
) -> dict[str, float]:
    """Send requests for a while; return what the generator counted."""
    line = _generator(port, requests, seconds, connections)
    done = subprocess.run(line, check=False, capture_output=True, text=True, cwd=ROOT)
    lines = [one for one in done.stdout.splitlines() if one.startswith("{")]
    if done.returncode or not lines:
        raise ContestantError(f"the load generator failed: {done.stderr.strip()[-300:]}")
    told: dict[str, float] = json.loads(lines[-1])
    return told


def _stored(url: str) -> int:
    """Count the events that have an execution, as the store has them."""
    if not url:
        return 0
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as conn:
            events, executions = conn.execute(_COUNT).fetchone()
    else:
        with psycopg.connect(url) as connection:
            (events, executions) = connection.execute(_COUNT.encode()).fetchone() or (0, 0)
    if events != executions:
        raise ContestantError(f"{events} events, but {executions} executions")
    return int(events)


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
