"""Ten minutes at half of what the machine can do, while processes are killed every few seconds.

`python -m tests.chaos.soak --database sqlite --minutes 10` runs it alone; `make soak` runs both.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from netscript_triggers.store.verify import verify
from netscript_workers.clock import SYSTEM_CLOCK
from netscript_workers.store import migrations
from netscript_workers.store.engine import Store
from tests import servers
from tests.chaos.lives import check_overlaps, read_lives
from tests.chaos.measures import (
    WINDOW,
    Trend,
    Window,
    add_latencies,
    compare,
    measure_database,
    rss,
    table,
)
from tests.chaos.sending import SECRET, Delivery, Load, redeliver
from tests.chaos.shop import shop
from tests.kit import rows, scalar
from tests.support import Process, eventually, free_port, wait_until_answers

SENDERS = 16
# Calibration feeds as much as the workers take away: it stops while this many wait.
_MOST_WAITING = 300
_REDELIVERED = 3000
# An attempt that took a minute is a fault, unless the machine was suspended.
_PAUSE = 20.0
LIVE = "SELECT count(*) FROM netscript_executions"


@dataclass
class _Member:
    command: tuple[str, ...]
    process: Process
    started: float = field(default_factory=time.monotonic)


class Fleet:
    """Two servers and two workers; the second of each is spared, so that its age can be seen."""

    def __init__(self, place: Path, url: str, record: Path) -> None:
        self._place = place
        self._environment = {
            "NETSCRIPT_DATABASE_URL": url,
            "WEBHOOK_SECRET": SECRET,
            "CHAOS_RECORD": str(record),
        }
        self.ports = [free_port(), free_port()]
        self.killed: dict[int, int] = {}
        self.members: dict[str, _Member] = {}
        self._logs = 0
        for number, port in enumerate(self.ports, 1):
            self._start(f"server {number}", ("serve", "--port", str(port)))
        for number in (1, 2):
            self._start(f"worker {number}", ("worker",))
        self.wait()

    def wait(self) -> None:
        """Wait until both servers answer."""
        for port in self.ports:
            wait_until_answers(f"http://127.0.0.1:{port}", seconds=90)

    def _start(self, name: str, command: tuple[str, ...]) -> None:
        self._logs += 1
        process = Process(
            *("-m", "netscript_triggers", *command, "--log-level", "warning"),
            cwd=self._place,
            env=self._environment,
            log=self._place / f"{self._logs}-{name.replace(' ', '-')}.log",
        )
        self.members[name] = _Member(command, process)

    def kill(self, name: str) -> None:
        """Kill one and start it again."""
        member = self.members[name]
        pid = member.process.popen.pid
        assert member.process.popen.poll() is None, f"{name} ended:\n{member.process.output}"
        self.killed[pid] = time.time_ns()  # until this instant its attempts live for certain
        member.process.kill()
        self._start(name, member.command)

    def measure(self, window: Window) -> None:
        for name, member in self.members.items():
            window.rss[name] = rss(member.process.popen.pid)
            window.ages[name] = time.monotonic() - member.started

    def stop(self) -> None:
        for member in self.members.values():
            self.killed.setdefault(member.process.popen.pid, time.time_ns())
            member.process.kill()


@dataclass
class Result:
    """What a soak showed; `broken` is what must not be."""

    capacity: float = 0.0
    rate: float = 0.0
    kills: int = 0
    windows: list[Window] = field(default_factory=list[Window])
    trends: list[Trend] = field(default_factory=list[Trend])
    statuses: dict[str, int] = field(default_factory=dict[str, int])
    accepted: int = 0
    executed: int = 0
    drained_in: float = 0.0
    # The longest that the machine itself stood still: timers of attempts run out meanwhile.
    paused: float = 0.0
    timeouts: int = 0
    checked: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def broken(self) -> list[str]:
        return [str(trend) for trend in self.trends if not trend.held]

    def __str__(self) -> str:
        trends = "\n".join(map(str, self.trends))
        return (
            f"capacity {self.capacity:.0f} events/s, ran at {self.rate:.0f}, {self.kills} kills\n"
            f"{table(self.windows)}\n"
            f"{'':<22}{'first':>10}{'last':>10}{'at most':>10}  (quarters)\n{trends}\n"
            f"{self.accepted} accepted, {self.executed} executed, answers {self.statuses}, "
            f"drained in {self.drained_in:.1f} s, {self.timeouts} timed out, "
            f"verified {self.checked}"
        )


class Soak:
    """One run on one database."""

    def __init__(self, url: str, place: Path) -> None:
        self._store = Store(url)
        self._record = place / "record"
        self._record.touch()
        self._read, self._ended = 0, 0
        self.result = Result()
        self._fleet = Fleet(shop(place), url, self._record)
        self._load = Load(self._fleet.ports)

    def executed(self) -> int:
        """Return how many attempts have noted their end so far."""
        with self._record.open("rb") as record:
            record.seek(self._read)
            new = record.read()
        whole = new.rfind(b"\n") + 1
        self._read += whole
        self._ended += new[:whole].count(b"end ")
        return self._ended

    async def run(
        self,
        minutes: float,
        rate: float | None,
        kill_every: float,
        calibrate: float = 20.0,
        say: Callable[[str], None] = lambda _: None,
    ) -> Result:
        """Run and check it; `rate` None runs at half of the capacity that is measured first."""
        try:
            sending = asyncio.create_task(self._load.run(SENDERS))
            await self._feed(3.0)  # imports, caches, the first connections
            if rate is None:
                self.result.capacity = await self._feed(calibrate)
                say(f"capacity: {self.result.capacity:.0f} events/s")
                rate = self.result.capacity / 2
            self.result.rate = rate
            self._load.set_rate(rate)
            began = SYSTEM_CLOCK.now()
            await self._windows(minutes, kill_every, sending, say)
            self._load.stopping = True
            await sending
            await self._drain()
            add_latencies(self._store, self.result.windows, began)
            self.result.trends = compare(self.result.windows, ("server 2", "worker 2"))
            await self._redeliver()
        finally:
            self._fleet.stop()
        self._check()
        self._store.dispose()
        return self.result

    async def _feed(self, seconds: float) -> float:
        """Send as fast as it is taken and worked off; return how many a second that was."""
        ends = time.monotonic() + seconds
        started, accepted = time.monotonic(), len(self._load.accepted)
        while time.monotonic() < ends:
            waiting = await asyncio.to_thread(scalar, self._store, LIVE)
            self._load.set_rate(5000.0 if waiting < _MOST_WAITING else 0.0)
            await asyncio.sleep(0.05)
        self._load.set_rate(0.0)
        return (len(self._load.accepted) - accepted) / (time.monotonic() - started)

    async def _windows(
        self,
        minutes: float,
        kill_every: float,
        sending: asyncio.Task[None],
        say: Callable[[str], None],
    ) -> None:
        chance, started = random.Random(7), time.monotonic()
        next_kill, next_window = started + kill_every, started + WINDOW
        accepted, executed = len(self._load.accepted), self.executed()
        while time.monotonic() < started + minutes * 60:
            due = min(next_kill, next_window)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self.result.paused = max(self.result.paused, time.monotonic() - due)
            if sending.done():
                sending.result()
            if time.monotonic() >= next_window:
                window = Window(at=next_window - WINDOW - started)
                now_accepted, now_executed = len(self._load.accepted), self.executed()
                window.accepted = now_accepted - accepted
                window.executed = now_executed - executed
                accepted, executed = now_accepted, now_executed
                self._fleet.measure(window)
                await asyncio.to_thread(measure_database, self._store, window)
                self.result.windows.append(window)
                next_window += WINDOW
                say(table([window]).splitlines()[1])
            if time.monotonic() >= next_kill:
                await asyncio.to_thread(self._fleet.kill, chance.choice(("server 1", "worker 1")))
                self.result.kills += 1
                next_kill += kill_every

    async def _drain(self) -> None:
        started = time.monotonic()
        unsettled = (
            "SELECT count(*) FROM netscript_trigger_events WHERE status NOT IN ('completed')"
        )

        def done() -> bool:
            return not scalar(self._store, LIVE) and not scalar(self._store, unsettled)

        # An event whose processor was killed waits for the end of its claim, a minute.
        await asyncio.to_thread(eventually, done, 180, "the end of the backlog")
        self.result.drained_in = time.monotonic() - started

    async def _redeliver(self) -> None:
        """Whatever was lost on the way, and a sample of the rest, changes nothing any more."""
        await asyncio.to_thread(self._fleet.wait)
        counted = "SELECT count(*) FROM netscript_trigger_events"
        before = scalar(self._store, counted)
        doubtful = [one for one in self._load.accepted if one.lost]
        sure = [one for one in self._load.accepted if not one.lost]
        sample = random.Random(8).sample(sure, min(_REDELIVERED, len(sure)))
        await redeliver(self._load, doubtful + sample)
        assert scalar(self._store, counted) == before == len(self._load.accepted)
        assert scalar(self._store, LIVE) == 0

    def _check(self) -> None:
        self.result.statuses = dict(self._load.statuses)
        self.result.accepted = len(self._load.accepted)
        report = verify(self._store)
        assert not report.findings, str(report)
        self.result.checked = dict(report.checked)
        lives = read_lives(self._record)
        check_overlaps(lives, self._fleet.killed)
        ended = {(life.execution, life.token) for life in lives if life.end is not None}
        finished = rows(
            self._store,
            "SELECT CAST(id AS text), job_id, status, token, attempt, result "
            "FROM netscript_execution_history",
        )
        self.result.executed = len(finished)
        failures = Counter(
            id_
            for id_, outcome in rows(
                self._store,
                "SELECT CAST(execution_id AS text), outcome FROM netscript_execution_attempts",
            )
            if outcome != "lost"
        )
        for id_, job_id, status, token, attempt, result in finished:
            assert status == "completed", (id_, job_id, status)
            assert json.loads(result) == token, (id_, token, result)
            assert (id_, token) in ended, f"{id_} completed without having run to its end"
            assert attempt == 1 + failures[id_], (id_, job_id, attempt)
            self.result.timeouts += failures[id_] - (job_id == "flaky")
        assert self.result.timeouts == 0 or self.result.paused > _PAUSE, str(self.result)
        self._check_events(self._load.accepted, {row[0] for row in finished})

    def _check_events(self, accepted: list[Delivery], finished: set[str]) -> None:
        sql = "SELECT CAST(id AS text), status, executions FROM netscript_trigger_events"
        events = {id_: (status, json.loads(ids)) for id_, status, ids in rows(self._store, sql)}
        caused: set[str] = set()
        for delivery in accepted:
            status, ids = events[delivery.event_id]
            assert status == "completed" and ids, delivery
            assert not delivery.executions or tuple(ids) == delivery.executions, delivery
            assert finished.issuperset(ids), delivery
            caused.update(ids)
        sql = "SELECT CAST(id AS text) FROM netscript_execution_history WHERE triggered_by <> 'job'"
        assert caused == {id_ for (id_,) in rows(self._store, sql)}


def soak(url: str, place: Path, **options: Any) -> Result:
    """Run a soak; return what it showed, or fail."""
    return asyncio.run(Soak(url, place).run(**options))


@contextlib.contextmanager
def database(kind: str, place: Path) -> Generator[str]:
    """Make a migrated database; yield its URL."""
    with contextlib.ExitStack() as stack:
        if kind == "sqlite":
            url = f"sqlite:///{place / 'netscript.db'}"
        else:
            found = servers.find(may_start=True)
            for stop in found.stop:
                stack.callback(stop)
            url = stack.enter_context(servers.new_database(found.urls["postgres"]))
        migrations.upgrade(url)
        yield url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--events-per-second", type=float, help="default: half of the capacity")
    parser.add_argument("--kill-every", type=float, default=5.0)
    parser.add_argument("--calibrate", type=float, default=20.0, help="seconds")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="netscript-soak-") as folder:
        place = Path(folder)
        with database(given.database, place) as url:
            result = soak(
                url,
                place,
                minutes=given.minutes,
                rate=given.events_per_second,
                kill_every=given.kill_every,
                calibrate=given.calibrate,
                say=partial(print, flush=True),
            )
    print(f"{given.database} on {os.cpu_count()} cores: {result}")
    if result.broken:
        raise SystemExit("\n".join(["the end is not like the beginning:", *result.broken]))


if __name__ == "__main__":
    main()
