"""All attacks at once on a server under load: who proves itself is served as before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

import pytest

from netscript_triggers.store.verify import verify
from netscript_workers.store.engine import Store
from tests.attacks import JOBS, SECRET, TRIGGERS
from tests.chaos import steady
from tests.chaos.measures import cpu_seconds, peak
from tests.chaos.steady import Sample
from tests.kit import rows, scalar
from tests.support import (
    ROOT,
    Process,
    clean_environment,
    eventually,
    free_port,
    wait_until_answers,
    write_project,
)

pytestmark = pytest.mark.chaos

RATE = 100
ALONE_SECONDS = 20.0
ATTACK_SECONDS = 60.0
MOST_MIB = 150
# So many times as long as without attacks may the slowest of a hundred take; or so long: a few
# signed bodies of a MiB hold up all others while they are read.
MOST_TIMES = 2.0
MOST_MS = 50.0

HOOKS = """
orders = hook("orders", pay, dedupe="auto")
asked = define_webhook(nothing, id="slack", path="/webhooks/slack", verifier="slack",
    secret_env="EDGE_SECRET")
guessed = define_webhook(nothing, id="meta", path="/webhooks/meta", verifier="meta",
    secret_env="EDGE_SECRET")
"""


@contextmanager
def _serving(url: str, place: Path) -> Generator[tuple[Process, int]]:
    write_project(place, {"jobs/charge.py": JOBS, "triggers/hooks.py": TRIGGERS + HOOKS})
    port = free_port()
    command = ("-m", "netscript_triggers", "serve", "--port", str(port), "--log-level", "warning")
    environment = {"NETSCRIPT_DATABASE_URL": url, "EDGE_SECRET": SECRET}
    with Process(*command, cwd=place, env=environment) as process:
        wait_until_answers(f"http://127.0.0.1:{port}")
        yield process, port


@contextmanager
def _program(name: str, *arguments: object) -> Generator[subprocess.Popen[str]]:
    line = [sys.executable, "-m", f"tests.chaos.{name}", *map(str, arguments)]
    environment = clean_environment()
    with subprocess.Popen(
        line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _p(percent: int, samples: Iterable[Sample]) -> float:
    """Return a percentile of what deliveries took, in milliseconds."""
    took = sorted(one.seconds for one in samples)
    return 1000 * took[len(took) * percent // 100]


def test_who_proves_itself_is_served_as_before_while_everything_else_is_tried(
    database_url: str, tmp_path: Path
) -> None:
    with _serving(database_url, tmp_path) as (server, port):
        pid = server.popen.pid
        with _program("steady", port, RATE) as sending:
            time.sleep(3.0)  # the first of everything
            alone, before = time.monotonic(), peak(pid)
            time.sleep(ALONE_SECONDS)
            attacked, used = time.monotonic(), cpu_seconds(pid)
            with _program("attackers", port, ATTACK_SECONDS) as attacking:
                told = json.loads(attacking.communicate(timeout=ATTACK_SECONDS + 60)[0])
            after, used = time.monotonic(), cpu_seconds(pid) - used
            time.sleep(ALONE_SECONDS)
            sending.send_signal(signal.SIGTERM)
            samples = steady.read(sending.communicate(timeout=60)[0])
        most = peak(pid)
        assert server.popen.poll() is None, server.output
        _check_events(database_url, samples)
        assert server.terminate() == 0, server.output

    first = [one for one in samples if alone <= one.due < attacked]
    during = [one for one in samples if attacked <= one.due < after]
    last = [one for one in samples if one.due >= after]
    seconds = after - attacked
    answers = [one.status for one in samples]
    report = "\n".join(
        [
            f"{len(samples)} good deliveries at {RATE}/s: {dict(Counter(answers))}",
            *(
                f"{name}: p50 {_p(50, part):.1f} ms, p99 {_p(99, part):.1f} ms, "
                f"longest {1000 * max(one.seconds for one in part):.0f} ms"
                for name, part in (("alone", first), ("attacked", during), ("afterwards", last))
            ),
            f"{sum(told['done'].values()) / seconds:.0f} attacks a second, {seconds:.0f} s: "
            f"{told['done']}",
            f"their answers: {told['statuses']}",
            f"peak memory {before:.0f} MiB alone, {most:.0f} MiB in the end",
            f"of a core: server {100 * used / seconds:.0f} %, attackers "
            f"{100 * told['cpu'] / seconds:.0f} %; load average {os.getloadavg()[0]:.1f}",
        ]
    )
    print(report)
    for never in ("Traceback", SECRET, "Exception in ASGI"):
        assert never not in server.output, server.output[-3000:]
    assert not told["wrong"], (told["wrong"], report)
    assert {one.status for one in samples} == {202}, report
    assert most < MOST_MIB, report
    quiet = max(_p(99, first), _p(99, last))
    assert _p(99, during) <= max(MOST_TIMES * quiet, MOST_MS), report


def _check_events(url: str, samples: list[Sample]) -> None:
    """Every good delivery is one event, each event has ended, and all that is promised holds."""
    store = Store(url)
    try:
        unfinished = (
            "SELECT count(*) FROM netscript_trigger_events "
            "WHERE status NOT IN ('completed', 'dead')"
        )
        eventually(lambda: scalar(store, unfinished) == 0, 60, "the end of every event")
        sql = "SELECT body FROM netscript_trigger_events WHERE trigger_id = 'orders'"
        orders = Counter(json.loads(bytes(body))["order"] for (body,) in rows(store, sql))
        assert max(orders.values()) == 1
        assert orders.keys() - {"replayed"} >= {f"order-{n}" for n in range(len(samples))}
        found = verify(store)
        assert not found.findings, str(found)
    finally:
        store.dispose()
