"""What handlers note of themselves while they are killed, and what must be true of it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

# Begins a module of jobs. The record is the handlers' own: a line in a file, written with one
# append, that no database transaction of ours can take back.
NOTE = """
import asyncio, os, time
from netscript_workers import JobContext, job

RECORD = os.open(os.environ["CHAOS_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def note(what, ctx):
    key = ctx.payload.get("key") or "-"
    facts = (what, time.time_ns(), os.getpid(), os.getppid(), ctx.id, ctx.fence_token, key)
    os.write(RECORD, (" ".join(map(str, facts)) + "\\n").encode())
"""


@dataclass(frozen=True)
class Life:
    """One run of a handler, as it noted itself; times in nanoseconds."""

    start: int
    end: int | None
    pid: int
    parent: int
    execution: str
    token: int
    key: str

    def death(self, killed: dict[int, int]) -> int:
        """Return when it was killed: what runs alone dies with the worker that started it."""
        return killed[self.pid] if self.pid in killed else killed[self.parent]


def read_lives(record: Path) -> list[Life]:
    started: dict[tuple[str, str], Life] = {}
    for line in record.read_text().splitlines():
        what, at, pid, parent, execution, token, key = line.split(" ", 6)
        name = (token, execution)
        if what == "start":
            numbers = (int(pid), int(parent))
            started[name] = Life(int(at), None, *numbers, execution, int(token), key)
        else:
            started[name] = replace(started[name], end=int(at))
    return list(started.values())


def check_overlaps(lives: list[Life], killed: dict[int, int]) -> None:
    """No two living attempts of one execution, or of one key, at any instant."""
    by_name: defaultdict[str, list[Life]] = defaultdict(list)
    for life in lives:
        by_name[life.execution].append(life)
        if life.key != "-":
            by_name[life.key].append(life)
    for name, same in by_name.items():
        same.sort(key=lambda life: life.start)
        for earlier, later in pairwise(same):
            alive_until = earlier.end if earlier.end is not None else earlier.death(killed)
            assert later.start >= alive_until, f"{name}: {earlier} overlaps {later}"
