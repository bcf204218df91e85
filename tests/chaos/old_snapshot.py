"""Work at a steady rate on PostgreSQL while somebody keeps an old snapshot.

Two workers, 500 executions a second, one transaction at REPEATABLE READ that does nothing: whatever
is deleted from its beginning on stays where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from netscript_triggers.store.verify import verify
from netscript_workers.store.engine import Store
from netscript_workers.store.wake import make_bell
from tests.chaos.measures import WINDOW, Window, add_latencies, measure_database
from tests.kit import new, put, scalar
from tests.support import Process, eventually, write_project

RATE = 500
# A commit of the sender carries so many, and more only where it has fallen behind.
BATCH, MOST = 5, 50
# Before the snapshot is taken, for the comparison.
QUIET_WINDOWS = 2
WARNING = "has kept an old snapshot"
JOBS = {
    "jobs/work.py": "from netscript_workers import JobContext, job\n\n"
    '@job(id="a")\nasync def a(ctx: JobContext):\n    pass\n'
}
LIVE = "SELECT count(*) FROM netscript_executions"


@dataclass
class Result:
    """What it showed; latencies are those of the workers, from enqueued to claimed."""

    windows: list[Window] = field(default_factory=list[Window])
    sent: int = 0
    warned_after: float | None = None
    drained_in: float = 0.0
    findings: list[str] = field(default_factory=list[str])
    checked: dict[str, int] = field(default_factory=dict[str, int])

    def __str__(self) -> str:
        lines = [
            f"{'s':>5}{'sent/s':>8}{'backlog':>9}{'dead':>9}{'p50 ms':>9}{'p95 ms':>9}{'load':>7}"
        ]
        lines += [
            f"{one.at:>5.0f}{one.accepted / WINDOW:>8.0f}{one.backlog:>9}{one.dead:>9}"
            f"{one.p50:>9.1f}{one.p95:>9.1f}{one.load:>7.1f}"
            + ("  before the snapshot" if one.at < QUIET_WINDOWS * WINDOW else "")
            for one in self.windows
        ]
        warned = "never" if self.warned_after is None else f"after {self.warned_after:.0f} s"
        lines.append(
            f"{self.sent} sent, warned {warned}, drained in {self.drained_in:.1f} s, "
            f"verified {self.checked}, findings {self.findings}"
        )
        return "\n".join(lines)


def hold_a_snapshot(
    url: str, place: Path, minutes: float, say: Callable[[str], None] = lambda _: None
) -> Result:
    """Run it on a migrated database; return what it showed."""
    result, store = Result(), Store(url)
    project = write_project(place, JOBS)
    bell = make_bell(store.parsed_url)
    with ExitStack() as stack:
        stack.callback(store.dispose)
        stack.callback(bell.close)
        workers = [_worker(stack, project, url) for _ in range(2)]
        eventually(lambda: scalar(store, "SELECT count(*) FROM netscript_workers") == 2, 60)
        began_at = _now(store)
        began, snapshot_at, next_window = time.monotonic(), float("inf"), WINDOW
        sent_before = 0
        while (passed := time.monotonic() - began) < minutes * 60 + QUIET_WINDOWS * WINDOW:
            if snapshot_at == float("inf") and passed >= QUIET_WINDOWS * WINDOW:
                reader = stack.enter_context(psycopg.connect(url, application_name="forgotten"))
                reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                reader.execute("SELECT 1")
                snapshot_at = time.monotonic()
            if passed >= next_window:
                window = Window(at=next_window - WINDOW, accepted=result.sent - sent_before)
                sent_before = result.sent
                measure_database(store, window)
                result.windows.append(window)
                say(f"{window.at:.0f} s: backlog {window.backlog}, dead {window.dead}")
                next_window += WINDOW
            if result.warned_after is None and any(WARNING in one.output for one in workers):
                result.warned_after = time.monotonic() - snapshot_at
            missing = int(passed * RATE) - result.sent
            if missing < BATCH:
                time.sleep(BATCH / RATE / 2)
                continue
            count = min(missing, MOST)
            put(store, *(new() for _ in range(count)))
            bell.ring()
            result.sent += count
        stopped = time.monotonic()
        eventually(lambda: scalar(store, LIVE) == 0, 120, "the end of the backlog")
        result.drained_in = time.monotonic() - stopped
        add_latencies(store, result.windows, began_at)
        report = verify(store)
        result.findings = [str(finding) for finding in report.findings]
        result.checked = dict(report.checked)
    return result


def _worker(stack: ExitStack, project: Path, url: str) -> Process:
    return stack.enter_context(
        Process(
            *("-m", "netscript_triggers", "worker", "--log-level", "warning"),
            cwd=project,
            env={"NETSCRIPT_DATABASE_URL": url},
        )
    )


def _now(store: Store) -> int:
    with store.read() as conn:
        return store.now(conn)
