"""The pump: moves work between the loop, where it runs, and the database, where it is kept."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from netscript_workers.assignment import WorkerOptions
from netscript_workers.cancels import Cancels
from netscript_workers.domain import ClaimedExecution, Outcome
from netscript_workers.errors import ResultInvalidError
from netscript_workers.execution.outcome import not_begun
from netscript_workers.execution.runners.protocol import Runner
from netscript_workers.isolation import Isolation
from netscript_workers.jobs import JobDefinition
from netscript_workers.lanes import Lanes
from netscript_workers.store import claims, leases, steps
from netscript_workers.store.claims import Probe
from netscript_workers.store.engine import Store
from netscript_workers.store.outcomes import Settled
from netscript_workers.store.steps import FinishedStep, LogLine, Progress
from netscript_workers.store.tick import Done, Ticker, Work
from netscript_workers.store.wake import Bell, Waiter
from netscript_workers.telemetry import spans
from netscript_workers.telemetry.attempts import Attempts
from netscript_workers.topics import Places, TopicSlots

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_FIRST_BACKOFF = 0.05
_LAST_BACKOFF = 2.0
# A tick that has not come round for two of the longest polls, and a little, makes no progress.
_STALLED_SECONDS = 2 * 1.2 * _POLL_SECONDS + 0.4
# How long a stopping worker tries to store what has ended; after that its lease must do.
_LAST_WORDS_SECONDS = 5.0

Saved: TypeAlias = tuple[FinishedStep, "asyncio.Future[bool]"]


@dataclass(slots=True)
class _Held:
    """What waits to be stored; it stays here until a commit is known to have taken it."""

    work: Work = field(default_factory=Work)
    saved: list[asyncio.Future[bool]] = field(default_factory=list["asyncio.Future[bool]"])


class Pump:
    """One thread that ticks. It alone stores what ends here and claims what comes next."""

    runner: Runner
    cancel: Callable[[str], None]
    isolation: Isolation | None = None
    lanes: Lanes | None = None
    # How many more than it runs at a time it may have claimed; asked by the tick's thread.
    ahead: Callable[[], int] = staticmethod(lambda: 0)

    def __init__(
        self,
        store: Store,
        worker_id: str,
        jobs: Mapping[str, JobDefinition[Any, Any]],
        options: WorkerOptions,
        *,
        bell: Bell,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Prepare; set `runner` and `cancel`, which ends what runs, then `start()`.

        `strangers` is set when something was ready and nothing of it could be claimed.
        """
        self.strangers = threading.Event()
        self._store = store
        self._own = store.apart()
        self._worker_id = worker_id
        plan = options.plan
        self._concurrency = plan.capacity
        self._topics = None if plan.is_plain else TopicSlots(plan)
        self._bell = bell
        self._loop = loop
        self._waiter = Waiter(store, worker_id)
        self._cancels = Cancels(self._own, worker_id)
        self.traces = Attempts(worker_id)
        self._ticker = Ticker(
            self._own,
            worker_id=worker_id,
            jobs={job.id: job.strict_order for job in jobs.values()},
            topics=plan.served,
            window=options.window,
        )
        self._ended: deque[Settled] = deque()
        self._dropped: deque[ClaimedExecution] = deque()
        self._steps: deque[Saved] = deque()
        self._progress: deque[Progress] = deque()
        self._logs: deque[LogLine] = deque()
        self._poke_planned = False
        self._look = True
        self._looked_at = float("-inf")
        self._claiming = True
        self._stopping = False
        # By id, the token of the claim: one that others gave back may be ours again already.
        self._running: dict[str, int] = {}
        self._unsure = False
        self._on_drain: Callable[[], None] | None = None
        self._came_round = time.monotonic()
        self._thread = threading.Thread(target=self._live, name="netscript-tick", daemon=True)

    # From any thread.

    def use_marks(self, wanted: bool) -> None:  # noqa: FBT001 - it is told what it is
        """Claim from low-water marks on, as long as somebody keeps an old snapshot."""
        self._ticker.marks.wanted = wanted

    def when_to_drain(self, callback: Callable[[], None]) -> None:
        """Have this called, from the tick's thread, when somebody wants the worker to leave."""
        self._on_drain = self._cancels.on_drain = callback

    def start(self) -> None:
        """Start ticking."""
        self._came_round = time.monotonic()
        self._thread.start()

    @property
    def is_stalled(self) -> bool:
        """Whether ticks have not ended, or have only failed, for longer than two polls."""
        return not self._stopping and time.monotonic() - self._came_round > _STALLED_SECONDS

    def look(self) -> None:
        """Look at the database now."""
        self._look = True
        self._waiter.poke()

    def stop_claiming(self) -> None:
        """Claim nothing more; go on storing."""
        self._claiming = False

    def stop(self, patience: float | None = None) -> bool:
        """Store what has ended, then stop; tell whether it has ended in so many seconds."""
        self._claiming = False
        self._stopping = True
        if self._thread.is_alive():
            self._waiter.poke()
            self._thread.join(patience)
        return not self._thread.is_alive()

    # On the loop's thread.

    def ended(self, claim: ClaimedExecution, outcome: Outcome | None) -> None:
        """Have the end of an attempt stored; None for one that nobody wants to hear of."""
        self.traces.ended(claim, outcome)
        if outcome is None:
            self._dropped.append(claim)
        else:
            self._ended.append(Settled(claim, outcome))
        self._poke_soon()

    async def load_steps(self, claim: ClaimedExecution) -> Mapping[str, str]:
        """Read the finished steps of earlier attempts."""
        return await asyncio.to_thread(steps.read_steps, self._store, claim.id)

    async def save_step(self, claim: ClaimedExecution, name: str, value: str) -> bool:
        """Store a finished step with the next tick, and wait for it."""
        saved: asyncio.Future[bool] = self._loop.create_future()
        step = FinishedStep(claim.id, claim.token, name, value, claim.attempt)
        self._steps.append((step, saved))
        self._poke_soon()
        return await saved

    def save_progress(self, claim: ClaimedExecution, percent: float, message: str | None) -> None:
        """Store progress with the next tick."""
        self.traces.progress(claim, percent)
        self._progress.append(Progress(claim.id, claim.token, percent, message))
        self._poke_soon()

    def save_log(self, claim: ClaimedExecution, at: int, level: str, message: str) -> None:
        """Store a log line with whatever tick comes next; may be called from any thread."""
        self._logs.append(LogLine(claim.id, claim.attempt, at, level, message))

    def _poke_soon(self) -> None:
        # At the end of this round of the loop, so that what ends together is stored together.
        if not self._poke_planned:
            self._poke_planned = True
            self._loop.call_soon(self._poke)

    def _poke(self) -> None:
        self._poke_planned = False
        self._waiter.poke()

    def _hand_over(self, done: Done, held: _Held) -> None:
        for id_ in done.stale:
            logger.warning("execution %s: a result came after its claim was given up", id_)
        for step, saved in zip(held.work.steps, held.saved, strict=True):
            if saved.done():
                continue
            if step.id in done.refused:
                refusal = f'The database refused the result of the step "{step.name}".'
                saved.set_exception(ResultInvalidError(refusal))
            else:
                saved.set_result(step.id not in done.lost_steps)
        for claim in done.claimed:
            if self._claiming:
                self.runner.start(self.traces.begin(claim))
            else:  # the worker stops: what has not begun goes back at once
                self.ended(claim, not_begun(claim))

    def _start_alone(self, isolation: Isolation, claim: ClaimedExecution) -> None:
        isolation.start(self.traces.begin(claim))

    # On the tick's own thread.

    def _live(self) -> None:
        try:
            self._run()
        finally:  # here, for a thread may end long after anybody has waited for it
            self._own.dispose()

    def _run(self) -> None:
        held, backoff, give_up_at = _Held(), _FIRST_BACKOFF, float("inf")
        while True:
            stopping = self._stopping  # read first: what ended before it is collected below
            self._collect(held)
            try:
                wait = self._step(held)
            except Exception as error:  # noqa: BLE001 - a worker without its tick would hold all
                cause = getattr(error, "orig", None) or error
                logger.warning("a tick was put off: %s", type(cause).__name__)
                # The commit may have happened, although its answer was lost.
                self._unsure = True
                self._look = True
                # Spread, so that those whom one cause has stopped don't come back as one.
                wait = backoff * random.uniform(0.8, 1.2)  # noqa: S311 - spread, not secrecy
                backoff = min(backoff * 2, _LAST_BACKOFF)
                give_up_at = min(give_up_at, time.monotonic() + _LAST_WORDS_SECONDS)
            else:
                wait = min(wait, self._ticker.held_up.due_in())
                held, backoff = _Held(), _FIRST_BACKOFF
                last = time.monotonic() + _LAST_WORDS_SECONDS
                waits = stopping and self._ticker.held_up
                give_up_at = min(give_up_at, last) if waits else float("inf")
                self._came_round = time.monotonic()
                if self._running:
                    wait = min(wait, self._cancels.next_in())
            unsaid = held.work.has_results or self._ticker.held_up
            if stopping and not (unsaid and time.monotonic() < give_up_at):
                self._waiter.close()
                return
            if self._unsure:
                self._pause(wait, stopping=stopping)
            elif wait > 0 and self._waiter.wait(wait):
                self._look = True
                self._cancels.rung()

    def _pause(self, seconds: float, *, stopping: bool) -> None:
        """Wait after a failure: whoever rings must not hurry a database that can't keep up."""
        until = time.monotonic() + seconds
        while self._stopping is stopping and (left := until - time.monotonic()) > 0:
            self._waiter.wait(left)

    def _collect(self, held: _Held) -> None:
        work = held.work
        work.ended += _take(self._ended)
        for step, saved in _take(self._steps):
            work.steps.append(step)
            held.saved.append(saved)
        work.progress += _take(self._progress)
        work.logs += _take(self._logs)
        self._forget(_take(self._dropped))

    def _forget(self, claims: Sequence[ClaimedExecution]) -> None:
        for claim in claims:
            if self._running.get(claim.id) == claim.token:
                del self._running[claim.id]

    def _step(self, held: _Held) -> float:
        """Tick if there is anything to do; return the seconds to wait before the next look."""
        work = held.work
        work.found = None  # what a look has found before a tick that failed is old
        ended = {end.claim.id for end in work.ended}
        if self._unsure:
            known = self._running.keys() | ended | self._ticker.held_up.ids
            leases.give_back_unknown(self._own, self._worker_id, known)
            self._unsure = False
        self._store_held_up()
        self._share_slots(work, self._running.keys() - ended)
        # A hint may be lost, and who is busy waits for none.
        marks = self._ticker.marks
        overdue = time.monotonic() - self._looked_at > _POLL_SECONDS or marks.due_in <= 0
        work.look = (self._look or overdue) and work.slots > 0
        wait = _POLL_SECONDS * random.uniform(1.0, 1.2)  # noqa: S311 - spread, not secrecy
        ready = False
        probes = work.look and not work.has_results  # which tells of cancels as well
        self._heed_cancels(due=not probes and self._cancels.next_in() <= 0)
        if not work.has_results:
            if not work.look:
                return min(wait, marks.due_in) if work.slots > 0 else wait
            found, due_in = self._probe()
            ready = found.ready
            self._heed_cancels(due=found.cancels)
            self._has_looked()
            if not (found.ready or found.notes or due_in <= 0):
                return min(wait, due_in, marks.due_in)
            work.found = found
        elif work.look:
            self._has_looked()
        began = 0 if spans.look() is None else time.time_ns()
        done = self._ticker.run(work)
        self.traces.claimed(done.claimed, began)
        self._forget([end.claim for end in work.ended])
        self._running.update((claim.id, claim.token) for claim in done.claimed)
        if self.lanes is not None:
            self.lanes.take(done.claimed)
        if self._topics is not None:
            self._topics.take(done.claimed)
        if ready and done.passed_over and not done.rationed:
            self.strangers.set()
        self._loop.call_soon_threadsafe(self._hand_over, done, held)
        if done.others:
            self._bell.ring()
        if self._claiming and not done.full and done.next_in is not None:
            wait = min(wait, done.next_in)
            self._look = self._look or done.next_in <= 0
        if not done.full:
            wait = max(min(wait, marks.due_in), 0.0)
        if done.more:
            # Behind the notes of one long queue stand those of keys that are free.
            self._look = True
            wait = wait if done.full else 0.0
        return wait

    def _store_held_up(self) -> None:
        if self._ticker.held_up.due_in() > 0:
            return
        done = self._ticker.store_held_up()
        self._look = self._look or done.others  # here as well it can be claimed
        if done.others:
            self._bell.ring()
        self._loop.call_soon_threadsafe(self._hand_over, done, _Held())

    def _share_slots(self, work: Work, running: Set[str]) -> None:
        """Say how many executions may be claimed, in all, of each topic and in each lane."""
        free = self._concurrency - len(running)
        places = None if self._topics is None else self._topics.free(running)
        free -= self._claim_alone(free, places)
        if places is not None:
            free, work.places = places.total, places
        else:  # what waits in a pool has its topic's place already, so bounds leave none ahead
            free = max(free + self.ahead(), 0)
        work.slots = free if self._claiming else 0
        if self.lanes is not None:
            work.lanes = self.lanes.shares(work.slots, running)
            work.slots = min(work.slots, sum(slots for _, slots in work.lanes))

    def _heed_cancels(self, *, due: bool) -> None:
        """End what somebody wants to end."""
        if not (due and self._running):
            return
        for execution_id in self._cancels.look(self._running):
            logger.info("execution %s is to end: it was cancelled", execution_id)
            # Behind the start of what was claimed before, before that of what comes next.
            self._loop.call_soon_threadsafe(self.cancel, execution_id)

    def _has_looked(self) -> None:
        self._look, self._looked_at = False, time.monotonic()

    def _claim_alone(self, free: int, places: Places | None) -> int:
        """Claim what must run in a process of its own, into slots like any; tell how much."""
        count = 0
        while self._claiming and self.isolation is not None and count < free:
            claim = self.isolation.claim(places)
            if claim is None:
                break
            if places is not None and self._topics is not None:
                places.take(claim.topic, 1)
                self._topics.take([claim])
            self._running[claim.id] = claim.token
            self._loop.call_soon_threadsafe(self._start_alone, self.isolation, claim)
            count += 1
        return count

    def _probe(self) -> tuple[Probe, float]:
        """Look whether there is anything to do, and in how many seconds there will be."""
        store = self._own
        with store.read() as conn:
            asked = time.monotonic()
            found = claims.probe(conn, store.dialect, self._worker_id, self._ticker.marks)
            store.heard_clock(found.clock, asked=asked)
            if found.drain and self._on_drain is not None:
                self._on_drain()
            if not found.cancels:
                self._cancels.has_looked()
            dues = [at for at in (found.next_due, found.next_look) if at is not None]
            if not dues:
                return found, float("inf")
            return found, (min(dues) - store.now(conn)) / 1e6


def _take(items: deque[Any]) -> list[Any]:
    """Empty a deque that another thread appends to."""
    return [items.popleft() for _ in range(len(items))]
