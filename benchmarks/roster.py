"""Who takes part, on what store, and with how much work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.stores import FAMILIES, Kind
from netscript_workers.domain import RuntimeName


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One row of the detail tables.

    Attributes:
        name: As it is shown.
        module: Its file in `contestants` or `contestants/peers`.
        store: Where its work is kept.
        rate: About how many executions a second it drains: the work is measured out by it.
        singles: About how many it enqueues a second, one at a time.
        settings: For its environment variables.
        contender: Whether it might be best at something: it takes part in every round, the others
            of the short mode in the first one only.
        short: Whether it takes part in the short mode at all.
    """

    name: str
    module: str
    store: Kind
    rate: int
    singles: int = 0
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    contender: bool = False
    short: bool = True


OURS_PG = "netscript-pg"
OURS_SQLITE = "netscript-sqlite"
HUEY = "huey-sqlite"
# Without fsync a commit can be lost with the machine: shown, but no match for one that can't.
HUEY_UNSAFE = "huey-sqlite-off"

CONTESTANTS = (
    Contestant(
        name=OURS_PG, module="ours", store="postgres", rate=8000, singles=500, contender=True
    ),
    Contestant(
        name="pgqueuer", module="pgqueuer", store="postgres", rate=7000, singles=900, contender=True
    ),
    Contestant(
        name=OURS_SQLITE, module="ours", store="sqlite", rate=10000, singles=1000, contender=True
    ),
    Contestant(name=HUEY, module="huey", store="sqlite", rate=900, singles=700, contender=True),
    Contestant(
        name=HUEY_UNSAFE,
        module="huey",
        store="sqlite",
        rate=1500,
        singles=1500,
        settings={"BENCH_FSYNC": "0"},
    ),
    Contestant(name="chancy", module="chancy", store="postgres", rate=1500, singles=400),
    Contestant(
        name="procrastinate", module="procrastinate", store="postgres", rate=250, singles=400
    ),
    Contestant(name="saq-pg", module="saq", store="postgres", rate=300, singles=300),
    Contestant(
        name="absurd", module="absurd", store="postgres", rate=300, singles=700, short=False
    ),
    Contestant(name="dbos", module="dbos", store="postgres", rate=300, singles=200, short=False),
    Contestant(name="huey-pg", module="huey", store="postgres", rate=400, singles=500, short=False),
    Contestant(name="huey-redis", module="huey", store="redis", rate=1400),
    Contestant(name="taskiq", module="taskiq", store="redis", rate=1700),
    Contestant(name="dramatiq", module="dramatiq", store="redis", rate=1600),
    Contestant(name="saq-redis", module="saq", store="redis", rate=1000),
    Contestant(name="celery", module="celery", store="redis", rate=600),
    Contestant(name="arq", module="arq", store="redis", rate=700, short=False),
    Contestant(name="rq", module="rq", store="redis", rate=200, short=False),
)

REDIS = tuple(one.name for one in CONTESTANTS if one.store == "redis")


def _ours(runtime: RuntimeName, store: Kind, rate: int, *, short: bool = False) -> Contestant:
    return Contestant(
        name=f"netscript-{runtime}-{FAMILIES[store]}",
        module="ours",
        store=store,
        rate=rate,
        settings={"BENCH_RUNTIME": runtime},
        short=short,
    )


# Runners with processes, and those of ours without: the same handler in as many slots.
POOL_PG = _ours("worker-process", "postgres", 1500, short=True)
POOL_SQLITE = _ours("worker-process", "sqlite", 1500, short=True)
POOL_PEERS = (
    Contestant(name="celery-prefork", module="celery", store="redis", rate=600),
    Contestant(
        name="dramatiq-processes",
        module="dramatiq",
        store="redis",
        rate=1200,
        # What it fetches ahead for one thread would have it wait for Redis most of the time.
        settings={"dramatiq_queue_prefetch": "64"},
    ),
    Contestant(name="rq-fork", module="rq", store="redis", rate=60),
    # It keeps its work in memory only, so the store is nobody's.
    Contestant(name="pebble-no-store", module="pebble", store="sqlite", rate=3000),
)
POOLS = (
    POOL_PG,
    *POOL_PEERS,
    POOL_SQLITE,
    _ours("in-process", "postgres", 1500),
    _ours("in-process", "sqlite", 1500),
    _ours("subprocess", "postgres", 8),
    _ours("subprocess", "sqlite", 8),
)
