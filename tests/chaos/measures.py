"""What a soak measures, in windows of ten seconds, and whether its end is like its beginning."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from netscript_workers.store.engine import Store
from tests.kit import rows, scalar

WINDOW = 10.0
MIB = 2**20


@dataclass
class Window:
    """Ten seconds; sizes in MiB, latencies in milliseconds."""

    at: float
    accepted: int = 0
    executed: int = 0
    backlog: int = 0
    rss: dict[str, float] = field(default_factory=dict[str, float])
    ages: dict[str, float] = field(default_factory=dict[str, float])
    database: float = 0.0
    wal: float = 0.0
    dead: int = 0
    load: float = field(default_factory=lambda: os.getloadavg()[0])
    p50: float = 0.0
    p95: float = 0.0


def rss(pid: int) -> float:
    """Return the resident memory of a process in MiB; 0 for one that is gone."""
    return _memory(pid, "VmRSS:")


def peak(pid: int) -> float:
    """Return the most MiB that a process and its children have held, each for itself."""
    return sum(_memory(one, "VmHWM:") for one in _tree(pid))


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process and its children have used."""
    ticks = 0
    for one in _tree(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _tree(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _tree(int(child)))]


def _memory(pid: int, name: str) -> float:
    try:
        told = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = [line for line in told.splitlines() if line.startswith(name)]
    return int(found[0].split()[1]) / 1024 if found else 0.0


def measure_database(store: Store, window: Window) -> None:
    window.backlog = scalar(store, "SELECT count(*) FROM netscript_executions")
    if store.is_sqlite:
        path = str(store.parsed_url.database)
        window.database = Path(path).stat().st_size / MIB
        wal = Path(f"{path}-wal")
        window.wal = wal.stat().st_size / MIB if wal.exists() else 0.0
        return
    size, wal_bytes, dead = rows(
        store,
        "SELECT pg_database_size(current_database()), "
        "pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0'), "
        "(SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'netscript_executions')",
    )[0]
    window.database, window.wal, window.dead = size / MIB, float(wal_bytes) / MIB, dead


def add_latencies(store: Store, windows: Sequence[Window], began: int) -> None:
    """Fill in how long executions waited that nothing held up: no key, no delay, no lost worker.

    Args:
        store: Where they are.
        windows: To fill in.
        began: When the first one began, in microseconds since the epoch.
    """
    found = rows(
        store,
        "SELECT created_at, started_at - created_at FROM netscript_execution_history "
        "WHERE concurrency_key IS NULL AND run_at = created_at AND attempt = 1 AND losses = 0 "
        "AND created_at >= :began",
        began=began,
    )
    waits: list[list[float]] = [[] for _ in windows]
    for created, wait in found:
        place = int((created - began) / 1e6 // WINDOW)
        if 0 <= place < len(waits):
            waits[place].append(wait / 1000)
    for window, waited in zip(windows, waits, strict=True):
        if waited:
            waited.sort()
            window.p50 = waited[len(waited) // 2]
            window.p95 = waited[int(len(waited) * 0.95)]


@dataclass(frozen=True)
class Trend:
    """A measure in the first and in the last quarter, and how much more it may be."""

    name: str
    first: float
    last: float
    limit: float

    @property
    def held(self) -> bool:
        return self.last <= self.limit

    def __str__(self) -> str:
        mark = "" if self.held else "  <-- GREW"
        return f"{self.name:<22}{self.first:>10.1f}{self.last:>10.1f}{self.limit:>10.1f}{mark}"


def compare(windows: Sequence[Window], spared: Sequence[str]) -> list[Trend]:
    """Compare the last quarter with the first: the median of each, so that one kill is nothing.

    Memory may grow by an eighth and 12 MiB (caches that fill up, an arena that split). A wait may
    double, and 25 ms more at the median and 250 ms more at the 95th percentile, which holds what
    waited while a killed process started again and took the processor from the others.
    """
    quarter = max(1, len(windows) // 4)
    early, late = windows[:quarter], windows[-quarter:]

    def trend(name: str, of: Callable[[Window], float], factor: float, slack: float) -> Trend:
        first, last = median(map(of, early)), median(map(of, late))
        return Trend(name, first, last, first * factor + slack)

    memory = [
        trend(f"RSS {name}, MiB", lambda window, name=name: window.rss[name], 1.125, 12.0)  # type: ignore[misc]
        for name in spared
    ]
    return [
        *memory,
        trend("claim p50, ms", lambda window: window.p50, 2.0, 25.0),
        trend("claim p95, ms", lambda window: window.p95, 2.0, 250.0),
    ]


def table(windows: Sequence[Window]) -> str:
    names = list(windows[0].rss) if windows else []
    short = [f"{name[:1]}{name[-1:]}" for name in names]
    title = (
        f"{'s':>5}{'acc/s':>7}{'exe/s':>7}{'live':>6}{'p50':>7}{'p95':>8}{'db':>7}{'wal':>8}"
        f"{'dead':>7}{'load':>6}  RSS MiB (age s): {' '.join(f'{name:<12}' for name in short)}"
    )
    lines = [title]
    for one in windows:
        memory = " ".join(f"{one.rss[n]:>5.0f} ({one.ages[n]:>3.0f})  " for n in names)
        lines.append(
            f"{one.at:>5.0f}{one.accepted / WINDOW:>7.0f}{one.executed / WINDOW:>7.0f}"
            f"{one.backlog:>6}{one.p50:>7.1f}{one.p95:>8.1f}{one.database:>7.0f}{one.wal:>8.0f}"
            f"{one.dead:>7}{one.load:>6.1f}  {memory}"
        )
    return "\n".join(lines)
