"""The lines of the table, and their bars."""

from __future__ import annotations

from benchmarks.accept import BARE
from benchmarks.roster import HUEY, OURS_PG, OURS_SQLITE, POOL_PEERS, POOL_PG, POOL_SQLITE, REDIS
from benchmarks.table import Bar, Line

AHEAD = Bar("ratio", 1.0, "more")
NO_MORE = Bar("ratio", 1.0, "less")
SHARE = Bar("ratio", 0.55, "more")
CPU_SHARE = Bar("ratio", round(1 / 0.55, 2), "less")


def _at_most(limit: float) -> Bar:
    return Bar("value", limit, "less")


_POOL_PEERS = tuple(one.name for one in POOL_PEERS)


def _runners(slots: int) -> tuple[Line, ...]:
    """Lines of runners with so many processes; the other runners of ours are in the details."""
    return (
        Line(
            f"worker-process, {slots} slots, PostgreSQL",
            f"runners {slots}",
            "/s",
            POOL_PG.name,
            AHEAD,
            _POOL_PEERS,
        ),
        Line(
            f"worker-process, {slots} slots, SQLite",
            f"runners {slots}",
            "/s",
            POOL_SQLITE.name,
            AHEAD,
            _POOL_PEERS,
        ),
        Line(
            f"memory for each of {slots} slots",
            f"runners-memory {slots}",
            "MiB",
            POOL_PG.name,
            _at_most(80),
            _POOL_PEERS,
        ),
    )


def _waits(store: str, ours: str) -> tuple[Line, ...]:
    """Lines of how long senders wait; what a bare route takes is in the details."""
    return (
        Line(f"webhook accepted, {store}, 1 connection", "accept-1", "/s", ours, SHARE, (BARE,)),
        *(
            Line(f"… {told}, {percentile}", f"{measure}-{percentile}", "ms", ours, _at_most(limit))
            for measure, told, p50, p99 in (
                ("accept-1", "1 connection", 5, 20),
                ("accept", "64 connections", 40, 100),
            )
            for percentile, limit in (("p50", p50), ("p99", p99))
        ),
        Line("… beside handlers that block, p99", "accept-beside-p99", "ms", ours, _at_most(50)),
    )


# By the name that `--only` takes.
GROUPS: dict[str, tuple[Line, ...]] = {
    "accept": (
        Line("webhook accepted, SQLite", "accept", "/s", OURS_SQLITE, SHARE, (BARE,)),
        Line("webhook accepted, PostgreSQL", "accept", "/s", OURS_PG, SHARE, (BARE,)),
        Line(
            "server CPU per webhook, SQLite",
            "accept-cpu",
            "µs",
            OURS_SQLITE,
            CPU_SHARE,
            (BARE,),
        ),
        Line(
            "server CPU per webhook, PostgreSQL",
            "accept-cpu",
            "µs",
            OURS_PG,
            CPU_SHARE,
            (BARE,),
        ),
        *_waits("SQLite", OURS_SQLITE),
        *_waits("PostgreSQL", OURS_PG),
    ),
    "drain": (
        Line("drained, PostgreSQL, 100 slots", "drain pg", "/s", OURS_PG, AHEAD),
        Line("worker CPU per execution, PostgreSQL", "drain-cpu pg", "ms", OURS_PG, NO_MORE),
        Line(
            "drained, SQLite, 100 slots, against huey",
            "drain sqlite",
            "/s",
            OURS_SQLITE,
            Bar("ratio", 7.0, "more"),
            (HUEY,),
        ),
        Line(
            "… against every peer on Redis",
            "drain sqlite|drain redis",
            "/s",
            OURS_SQLITE,
            AHEAD,
            REDIS,
        ),
        Line(
            "worker CPU per execution, SQLite",
            "drain-cpu sqlite|drain-cpu redis",
            "ms",
            OURS_SQLITE,
            NO_MORE,
        ),
    ),
    "bulk": (Line("enqueued in bulk, PostgreSQL", "bulk pg", "/s", OURS_PG, AHEAD),),
    "single": (
        Line(
            "enqueued one at a time, SQLite at FULL",
            "single sqlite",
            "/s",
            OURS_SQLITE,
            AHEAD,
            (HUEY,),
        ),
        Line("enqueued one at a time, PostgreSQL", "single pg", "/s", OURS_PG, AHEAD),
    ),
    "latency": (
        Line("enqueue to start, SQLite, p50", "latency-p50 sqlite", "ms", OURS_SQLITE, _at_most(3)),
        Line(
            "enqueue to start, SQLite, p99", "latency-p99 sqlite", "ms", OURS_SQLITE, _at_most(15)
        ),
        Line("enqueue to start, PostgreSQL, p50", "latency-p50 pg", "ms", OURS_PG, _at_most(4)),
        Line("enqueue to start, PostgreSQL, p99", "latency-p99 pg", "ms", OURS_PG, _at_most(15)),
    ),
    "idle": (
        Line("idle worker, SQLite, of a core", "idle-cpu sqlite", "%", OURS_SQLITE, _at_most(1)),
        Line("idle worker, PostgreSQL, of a core", "idle-cpu pg", "%", OURS_PG, _at_most(1)),
        Line("idle worker, transactions", "idle-transactions pg", "/s", OURS_PG, _at_most(2)),
        Line("idle worker, SQLite", "idle-memory sqlite", "MiB", OURS_SQLITE, _at_most(80)),
        Line("idle worker, PostgreSQL", "idle-memory pg", "MiB", OURS_PG, _at_most(80)),
    ),
    "runners": (*_runners(2), *_runners(8)),
}
# What a visit to a contestant measures; the rest has a part of the run to itself.
VISITS = ("drain", "bulk", "single", "latency")
