"""What traces cost: the same server and worker without and with them, in turn.

`python -m benchmarks.tracing` accepts webhooks and drains what they have enqueued, without
telemetry, with 10 % of the traces sent to a collector, and with all of them. `--base PATH` adds
another checkout, such as one from before a change.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sqlite3
import sys
import time
import urllib.request
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psycopg

from benchmarks import accept, processes, stores
from benchmarks.machine import cpu_seconds
from benchmarks.stores import Kind

OFF, TENTH, ALL, BASE = "off", "10 %", "all", "base"
SECRET = {"BENCH_SECRET": "whsec_bench"}
_MEASURES = ("accept/s", "accept CPU µs", "drain/s", "drain CPU µs")
_COUNT = "SELECT count(*) FROM netscript_execution_history"
# Between these parts of a drain its rate is taken: not while it starts or ends.
_FROM, _TO = 0.1, 0.9


@dataclass(frozen=True, slots=True)
class _Side:
    name: str
    root: Path
    settings: dict[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print medians and their ratios to `off`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load, each time")
    parser.add_argument("--base", type=Path, help="another checkout, measured without telemetry")
    parser.add_argument("--databases", default="sqlite,postgres")
    options = parser.parse_args(arguments)
    kinds: dict[str, Kind] = {"sqlite": "sqlite", "postgres": "postgres"}
    with _collector() as url:
        sides = _sides(url, options.base)
        load = accept.Acceptance(options.seconds)
        for name in options.databases.split(","):
            found: dict[str, list[dict[str, float]]] = {side.name: [] for side in sides}
            for number in range(options.rounds):
                # Each goes first as often as the others.
                for side in sides[number % len(sides) :] + sides[: number % len(sides)]:
                    found[side.name].append(_visit(side, kinds[name], load, options.seconds))
            print(_table(name, found), flush=True)
        print(f"the collector took {_ask(url)} spans")
    return 0


def _sides(collector: str, base: Path | None) -> list[_Side]:
    on = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
    }
    sides = [
        _Side(OFF, stores.ROOT, {}),
        _Side(TENTH, stores.ROOT, {**on, "OTEL_TRACES_SAMPLER_ARG": "0.1"}),
        _Side(ALL, stores.ROOT, {**on, "OTEL_TRACES_SAMPLER_ARG": "1"}),
    ]
    return sides if base is None else [_Side(BASE, base.resolve(), {}), *sides]


def _visit(side: _Side, kind: Kind, load: accept.Acceptance, seconds: float) -> dict[str, float]:
    with stores.fresh(kind, f"tracing-{kind}") as url:
        environ = processes.environment(url, **SECRET, **side.settings)
        environ |= {"NETSCRIPT_DATABASE_URL": url, "PYTHONPATH": str(side.root)}
        _run(["-m", "benchmarks.contestants.ours", "setup"], environ)
        return {**_accept(url, environ, load, seconds), **_drain(url, environ)}


def _run(command: list[str], environ: dict[str, str]) -> None:
    with processes.program([sys.executable, *command], environ) as process:
        processes.finish(process)


def _command(*words: str) -> list[str]:
    project = ("--project", str(accept.PROJECT), "--log-level", "warning")
    return [sys.executable, "-m", "netscript_triggers", *words, *project]


def _accept(
    url: str, environ: dict[str, str], load: accept.Acceptance, seconds: float
) -> dict[str, float]:
    port = _free_port()
    with processes.program(_command("serve", "--port", str(port)), environ) as process:
        accept.wait_until_open(process, port)
        accept.send(port, load.warm_up, 0.5)
        before = cpu_seconds(process.pid)
        told = accept.send(port, load.measured, seconds)
        cpu = cpu_seconds(process.pid) - before
        if told["refused"] or told["broken"]:
            raise processes.ContestantError(f"{told['refused']} refused, {told['broken']} broken")
    rate = told["requests"] / (told["microseconds"] / 1e6)
    return {"accept/s": rate, "accept CPU µs": 1e6 * cpu / told["requests"]}


def _drain(url: str, environ: dict[str, str]) -> dict[str, float]:
    count = _settled(url, "SELECT count(*) FROM netscript_executions")
    seen: list[tuple[int, float, float]] = []
    with processes.program(_command("worker"), environ) as process:
        while not seen or seen[-1][0] < count:
            if process.poll() is not None:
                raise processes.ContestantError("the worker ended")
            seen.append((_settled(url), time.monotonic(), cpu_seconds(process.pid)))
            time.sleep(0.02)
    first = next(one for one in seen if one[0] >= _FROM * count)
    last = next(one for one in seen if one[0] >= _TO * count)
    done = max(1, last[0] - first[0])
    rate = done / max(last[1] - first[1], 1e-3)
    return {"drain/s": rate, "drain CPU µs": 1e6 * (last[2] - first[2]) / done}


def _settled(url: str, statement: str = _COUNT) -> int:
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as conn:
            return int(conn.execute(statement).fetchone()[0])
    with psycopg.connect(url) as connection:
        row = connection.execute(statement.encode()).fetchone()
        return int(row[0]) if row else 0


@contextlib.contextmanager
def _collector() -> Generator[str]:
    port = _free_port()
    line = [sys.executable, "-m", "benchmarks.collector", str(port)]
    with processes.program(line, processes.environment("")) as process:
        accept.wait_until_open(process, port)
        yield f"http://127.0.0.1:{port}"


def _ask(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own
        told: bytes = answer.read()
    return told.decode()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _table(database: str, found: dict[str, list[dict[str, float]]]) -> str:
    lines = [f"{database:<10}" + "".join(f"{measure:>24}" for measure in _MEASURES)]
    medians = {
        name: {one: median(run[one] for run in runs) for one in _MEASURES}
        for name, runs in found.items()
    }
    for name, values in medians.items():
        cells = [f"{values[one]:,.0f} ({values[one] / medians[OFF][one]:.3f})" for one in _MEASURES]
        lines.append(f"{name:<10}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
