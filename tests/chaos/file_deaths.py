"""Files that are written slowly, renamed and removed while the servers that watch are killed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from netscript_triggers.store.verify import verify
from netscript_workers.store.engine import Store
from tests.kit import rows
from tests.support import Process, eventually, free_port, wait_until_answers, write_project

INTERVAL, CHECKS = 0.5, 3

TRIGGERS = f"""
from netscript_triggers import FileEvent, Stability, enqueue_job, file_watch

@file_watch(
    id="inbox", paths=["inbox"], patterns=["*.csv"], poll_interval=3.0,
    stability=Stability(interval={INTERVAL}, checks={CHECKS}),
)
def inbox(event: FileEvent):
    return enqueue_job("work", {{"sha256": event.sha256}}, idempotency_key=event.sha256)
"""
JOBS = """
from netscript_workers import JobContext, job

@job(id="work")
async def work(ctx: JobContext): ...
"""


def project(place: Path) -> Path:
    write_project(place, {"jobs/work.py": JOBS, "triggers/inbox.py": TRIGGERS})
    (place / "inbox").mkdir()
    return place


@dataclass
class Slow:
    """A file that somebody writes slowly.

    Attributes:
        end: What becomes of it: `stays`, `renamed` into its name as programs do, `moved` before or
            after it is finished, or `removed` before or after that.
        parts: The contents it has had, as digests.
        pace: By how much it is written slower.
        paused: The writer was held up for so long that a part may have passed for the whole.
    """

    number: int
    end: str
    pace: float = 1.0
    parts: list[str] = field(default_factory=list[str])
    paused: bool = False

    async def live(self, inbox: Path, chance: random.Random, start: float) -> None:
        await asyncio.sleep(start)
        folder = inbox / f"d{self.number % 7}"
        folder.mkdir(exist_ok=True)
        path = folder / f"{self.number}.csv"
        await self._write(path.with_suffix(".csv.part") if self.end == "renamed" else path, chance)
        if self.end == "renamed":
            path.with_suffix(".csv.part").rename(path)
        elif self.end.startswith("moved"):
            await self._linger(chance)
            other = inbox / f"d{(self.number + 1) % 7}"
            other.mkdir(exist_ok=True)
            path.rename(other / f"moved-{self.number}.csv")
        elif self.end.startswith("removed"):
            await self._linger(chance)
            path.unlink()

    async def _linger(self, chance: random.Random) -> None:
        await asyncio.sleep(
            self.pace * (chance.uniform(2, 6) if self.end.endswith("late") else 0.05)
        )

    async def _write(self, path: Path, chance: random.Random) -> None:
        content = hashlib.sha256()
        last = time.monotonic()
        for part in range(chance.randrange(1, 6)):
            if part:
                await asyncio.sleep(self.pace * chance.uniform(0.05, 0.3))
            # One that was left alone for this long may have been taken for finished.
            pause = self.pace * INTERVAL * (CHECKS - 1) - 0.1
            self.paused = self.paused or time.monotonic() - last > pause
            written = f"{self.number} {part} {chance.random()}\n".encode()
            with path.open("ab") as file:
                file.write(written)
            last = time.monotonic()
            content.update(written)
            self.parts.append(content.hexdigest())


ENDS = (*["stays"] * 4, *["renamed"] * 2, "moved", "moved late", "removed", "removed late")


class Watchers(Protocol):
    """Processes that watch the same directory, and are killed in turn."""

    def wait(self, number: int) -> None:
        """Wait until one watches."""
        ...

    def kill(self, number: int) -> None:
        """Kill one, and start another one in its place."""
        ...

    def end(self) -> None:
        """Kill all."""
        ...


class Servers:
    """Watchers that are whole servers."""

    def __init__(self, place: Path, url: str, count: int) -> None:
        self._place = place
        self._environment = {"NETSCRIPT_DATABASE_URL": url}
        self._ports = [free_port() for _ in range(count)]
        self._all = [self._start(port) for port in self._ports]

    def _start(self, port: int) -> Process:
        command = ("-m", "netscript_triggers", "serve", "--log-level", "warning")
        return Process(*command, "--port", str(port), cwd=self._place, env=self._environment)

    def wait(self, number: int) -> None:
        port = self._ports[number % len(self._ports)]
        wait_until_answers(f"http://127.0.0.1:{port}", seconds=60)

    def kill(self, number: int) -> None:
        place = number % len(self._ports)
        self._all[place].kill()
        self._all[place] = self._start(self._ports[place])

    def end(self) -> None:
        for process in self._all:
            process.kill()


def watch_under_kills(
    url: str, inbox: Path, watchers: Watchers, *, count: int, kills: int, pace: float = 1.0
) -> str:
    """Write files while those who watch are killed; return what it showed, or fail."""
    store, chance, began = Store(url), random.Random(6), time.monotonic()
    files = [Slow(number, ENDS[number % len(ENDS)], pace) for number in range(count)]
    busy = kills * pace * 1.5

    async def write() -> None:
        lives = [
            one.live(inbox, random.Random(one.number), chance.uniform(0, busy)) for one in files
        ]
        await asyncio.gather(*lives)

    async def drive() -> None:
        writing = asyncio.create_task(write())
        for number in range(kills):
            await asyncio.to_thread(watchers.wait, number)
            await asyncio.sleep(pace * chance.uniform(0.0, 1.5))
            await asyncio.to_thread(watchers.kill, number)
        await writing

    try:
        asyncio.run(drive())
        stay = [one for one in files if not one.end.startswith("removed")]
        eventually(lambda: len(_taken(store, stay)) == len(stay), 60, "the last event")
        time.sleep(2 * pace * INTERVAL * CHECKS)  # for one that is too many
    finally:
        watchers.end()
    told = _check(store, files)
    found = verify(store)
    assert not found.findings, str(found)
    store.dispose()
    seconds = time.monotonic() - began
    return f"{kills} kills, {count} files, {told}, {seconds:.0f} s"


def _events(store: Store) -> list[tuple[str, str]]:
    sql = "SELECT event_type, body FROM netscript_trigger_events"
    return [(change, json.loads(bytes(body))["sha256"]) for change, body in rows(store, sql)]


def _taken(store: Store, files: list[Slow]) -> set[str]:
    return {one.parts[-1] for one in files} & {digest for _, digest in _events(store)}


def _check(store: Store, files: list[Slow]) -> str:
    """Each file that stays is one event, each that was removed one at most."""
    events = _events(store)
    times = Counter(digest for _, digest in events)
    by_part = {part: one for one in files for part in one.parts}
    assert times.keys() <= by_part.keys()
    wrong: list[str] = []
    for one in files:
        whole, partly = times[one.parts[-1]], sum(times[part] for part in one.parts[:-1])
        wanted = {0, 1} if one.end.startswith("removed") else {1}
        if whole not in wanted or (partly and not one.paused):
            wrong.append(f"{one.number} {one.end}: {whole} whole, {partly} in part")
    assert not wrong, wrong
    # What a killed server was about to handle is handled by another one within a minute.
    ended = {status for (status,) in rows(store, "SELECT status FROM netscript_trigger_events")}
    assert ended <= {"pending", "processing", "completed"}
    paths = rows(store, "SELECT count(*), count(DISTINCT event_id) FROM netscript_files")
    stay = sum(not one.end.startswith("removed") for one in files)
    assert paths[0][0] == paths[0][1] >= stay
    paused = sum(one.paused for one in files)
    return f"{len(events)} events, {stay} stay, {paused} were written too slowly to tell"
