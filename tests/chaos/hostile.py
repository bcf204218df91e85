"""Hostile handlers among good ones in a pool of processes, and what must be true afterwards."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from netscript_triggers.store.verify import verify
from netscript_workers.execution.runners.pool import Recycling
from netscript_workers.store.engine import Store
from tests.conformance.running import working_on
from tests.kit import detail, rows, scalar
from tests.support import eventually_async, is_alive

LIMIT_MIB = 200


async def survive(url: str, place: Path, *, good: int, each: int, slots: int = 4) -> str:
    """Run so many good executions among as many hostile ones of each kind; return what it showed.

    Some crash, some leak 300 MiB, some ignore SIGTERM and start processes that do.
    """
    store, pids, began = Store(url), place / "pids", time.monotonic()
    recycling = Recycling(bytes=LIMIT_MIB * 2**20)
    options: dict[str, Any] = {"concurrency": slots, "recycling": recycling}
    async with working_on(store, "worker-process", **options) as at:
        kinds: dict[str, tuple[str, dict[str, Any], int]] = {
            "good": ("good", {}, good),
            "dies": ("dies", {"how": "segfault"}, each),
            "leaks": ("leaks", {"mib": 300}, each),
            "deaf": ("deaf", {"pids": str(pids)}, each),
        }
        order = [kind for kind, (_, _, count) in kinds.items() for _ in range(count)]
        random.Random(6).shuffle(order)
        given = [(kind, at.enqueue_by_name(*kinds[kind][:2])) for kind in order]
        left = "SELECT count(*) FROM netscript_executions"
        await eventually_async(lambda: scalar(store, left) == 0, 280, "the end of them all")
        took = time.monotonic() - began
        # Who has leaked serves nobody for long: it is replaced as soon as another one is warm.
        leaky = {detail(store, id_).execution.result for kind, id_ in given if kind == "leaks"}
        await eventually_async(lambda: not any(map(is_alive, leaky)), 60, "the end of the leaky")
        ours = at.worker.pids
    _check(store, given, pids)
    assert not [pid for pid in ours if Path(f"/proc/{pid}").exists()], "a process is left"
    found = verify(store)
    assert not found.findings, str(found)
    sizes = Counter(order)
    store.dispose()
    return f"{dict(sizes)} in {took:.0f} s, {len(pids.read_text().split())} deaf children ended"


def _check(store: Store, given: list[tuple[str, str]], pids: Path) -> None:
    sql = "SELECT CAST(id AS text), status, reason, attempt FROM netscript_execution_history"
    ends = {id_: (status, reason, attempt) for id_, status, reason, attempt in rows(store, sql)}
    expected = {
        "good": ("completed", None, 1),
        "leaks": ("completed", None, 1),
        "dies": ("failed", "crashed", 1),
        "deaf": ("failed", "timeout", 1),
    }
    wrong = [(kind, id_, ends.get(id_)) for kind, id_ in given if ends.get(id_) != expected[kind]]
    assert not wrong, wrong
    attempts = {"good": [], "leaks": [], "dies": ["crashed"] * 3, "deaf": ["timeout"]}
    for kind, id_ in given:
        found = detail(store, id_).attempts
        assert [one.outcome for one in found] == attempts[kind], (kind, found)
        if kind == "dies":
            assert {one.signal for one in found} == {11}
    deaf = [int(line) for line in pids.read_text().split()]
    assert len(deaf) == 2 * sum(kind == "deaf" for kind, _ in given)
    assert not [pid for pid in deaf if is_alive(pid)]


async def die_between_steps(url: str, place: Path, *, times: int) -> str:
    """Have so many handlers killed between their steps; each step's effect happens once."""
    store, record, began = Store(url), place / "record", time.monotonic()
    async with working_on(store, "worker-process") as at:
        given = [
            at.enqueue_by_name("two-steps", {"record": str(record), "flag": str(place / f"{n}")})
            for n in range(times)
        ]
        left = "SELECT count(*) FROM netscript_executions"
        await eventually_async(lambda: scalar(store, left) == 0, 280, "the end of them all")
    for id_ in given:
        told = detail(store, id_)
        assert told.execution.result == "done"
        assert [one.outcome for one in told.attempts] == ["crashed"]
    lines = [line.split() for line in record.read_text().splitlines()]
    effects = Counter((id_, step) for id_, _, step in lines)
    assert effects == Counter((id_, step) for id_ in given for step in ("one", "two"))
    assert len({pid for _, pid, step in lines if step == "one"}) == times
    store.dispose()
    return f"{times} handlers killed between two steps in {time.monotonic() - began:.0f} s"
