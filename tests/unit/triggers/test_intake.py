"""The intake: one thread works for all, and a handler that blocks holds up nobody else."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest

from netscript_triggers import intake as module
from netscript_triggers.intake import Arrival, Intake

LIMIT = 0.3


class Piece(Arrival):
    """Something to be handled by its own function, or known already."""

    def __init__(
        self,
        handler: Callable[[], object] = lambda: None,
        *,
        known: bool = False,
        lane: str = "a",
    ) -> None:
        super().__init__(lane)
        self.handler, self.known = handler, known
        self.future = asyncio.get_running_loop().create_future()


class Place:
    """An intake whose pieces are told how far they came."""

    def __init__(self, threads: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.batches: list[int] = []
        self.looked_up: list[int] = []
        self.storing = threading.Event()
        self.stored = threading.Event()
        self.stored.set()
        self.intake: Intake[Piece] = Intake(
            look_up=self.look_up,
            handle=self.handle,
            pass_on=self.pass_on,
            give_up=lambda piece: piece.future.set_result("given up"),
            limit=lambda: LIMIT,
            threads=threads,
        )

    def tell(self, piece: Piece, what: str) -> None:
        def set_result() -> None:
            if not piece.future.done():
                piece.future.set_result(what)

        self.loop.call_soon_threadsafe(set_result)

    def look_up(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        self.looked_up.append(len(pieces))
        for piece in pieces:
            if piece.known:
                self.tell(piece, "known")
        return [piece for piece in pieces if not piece.known]

    def handle(self, piece: Piece) -> Callable[[], None]:
        piece.handler()
        return lambda: None

    def pass_on(self, pieces: Sequence[Piece]) -> None:
        self.batches.append(len(pieces))
        self.storing.set()
        self.stored.wait(10)
        for piece in pieces:
            self.tell(piece, "handled")

    def put(self, *pieces: Piece) -> None:
        for piece in pieces:
            self.intake.put(piece)


@asynccontextmanager
async def intake(threads: int = 4) -> AsyncGenerator[Place]:
    place = Place(threads)
    place.intake.start()
    try:
        yield place
    finally:
        await asyncio.to_thread(place.intake.close)


async def told(piece: Piece) -> str:
    return await asyncio.wait_for(asyncio.shield(piece.future), 10)


async def test_what_arrives_together_is_passed_on_together() -> None:
    gate = threading.Event()
    async with intake() as place:
        first = Piece(lambda: gate.wait(10))
        place.put(first)
        many = [Piece() for _ in range(50)]
        place.put(*many)
        assert {await told(piece) for piece in many} == {"handled"}
        gate.set()
        assert await told(first) == "handled"
    assert max(place.batches) > 10


async def test_what_comes_turn_by_turn_of_the_loop_is_looked_up_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "GATHER_SECONDS", 10.0)
    async with intake() as place:
        many = [Piece() for _ in range(10)]
        for piece in many:
            place.put(piece)
            await asyncio.sleep(0)
        assert {await told(piece) for piece in many} == {"handled"}
    assert place.looked_up == [10]


async def test_what_does_not_stop_coming_is_handed_over_nevertheless(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "GATHER_SECONDS", 0.0)
    monkeypatch.setattr(module, "AT_A_TIME", sys.maxsize)
    async with intake() as place, asyncio.timeout(10):
        first = Piece()
        place.put(first)
        while not first.future.done():
            place.put(Piece())
            await asyncio.sleep(0)
        assert await told(first) == "handled"


async def test_what_comes_while_others_are_stored_waits_for_what_their_answers_bring(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "GATHER_SECONDS", 10.0)
    async with intake() as place:
        place.stored.clear()
        first, second, third = Piece(), Piece(), Piece()
        first.future.add_done_callback(lambda _: place.put(third))
        place.put(first)
        await asyncio.to_thread(place.storing.wait, 10)
        place.put(second)
        place.stored.set()
        assert [await told(piece) for piece in (first, second, third)] == ["handled"] * 3
    assert place.looked_up == [1, 2]


async def test_handlers_that_block_hold_up_nobody_else() -> None:
    gate = threading.Event()
    async with intake(threads=4) as place:
        slow = [Piece(lambda: gate.wait(10)) for _ in range(20)]
        place.put(*slow)
        quick = [Piece(lane="b") for _ in range(5)]
        place.put(*quick)
        assert {await told(piece) for piece in quick} == {"handled"}
        assert sum(piece.called for piece in slow) == 2
        gate.set()
        assert {await told(piece) for piece in slow} == {"handled"}


async def test_several_that_block_leave_something_to_one_that_does_not() -> None:
    gate = threading.Event()
    async with intake(threads=9) as place:
        slow = [Piece(lambda: gate.wait(10), lane=f"slow {n % 3}") for n in range(60)]
        place.put(*slow)
        quick = Piece()
        place.put(quick)
        assert await told(quick) == "handled"
        called = Counter(piece.lane for piece in slow if piece.called)
        assert len(called) == 3 and called.total() < 8
        gate.set()
        assert {await told(piece) for piece in slow} == {"handled"}


async def test_when_all_block_what_needs_no_handler_goes_on_and_the_rest_is_given_up() -> None:
    gate = threading.Event()
    async with intake(threads=3) as place:
        blocked = [Piece(lambda: gate.wait(10)) for _ in range(2)]
        place.put(*blocked)
        waiting, known = Piece(), Piece(known=True)
        place.put(waiting, known)
        assert await told(known) == "known"
        assert await told(waiting) == "given up"
        assert (waiting.called, blocked[0].called) == (False, True)
        assert await told(blocked[0]) == "given up"
        gate.set()
        later = Piece()
        place.put(later)
        assert await told(later) == "handled"


async def test_what_a_handler_returns_after_it_was_given_up_is_not_taken() -> None:
    gate, ended = threading.Event(), threading.Event()

    def late() -> None:
        gate.wait(10)
        ended.set()

    async with intake() as place:
        piece = Piece(late)
        place.put(piece)
        assert await told(piece) == "given up"
        gate.set()
        assert await asyncio.to_thread(ended.wait, 5)
        after = Piece()
        place.put(after)
        assert await told(after) == "handled"
        assert sum(place.batches) == 1


async def test_a_step_that_breaks_costs_itself_only() -> None:
    def breaks() -> None:
        raise SystemExit(3)

    async with intake(threads=2) as place:
        for _ in range(5):
            broken, good = Piece(breaks), Piece()
            place.put(broken)
            place.put(good)
            assert await told(good) == "handled"
            assert await told(broken) == "given up"


async def test_what_comes_while_the_turn_is_left_to_a_slow_lane_is_handed_over() -> None:
    go_on, looking, look_on = threading.Event(), threading.Event(), threading.Event()
    async with intake(threads=16) as place:
        blocking = [Piece(partial(go_on.wait, 10), lane="slow") for _ in range(3)]
        place.put(*blocking[:2])
        await asyncio.sleep(0.1)  # both have lost the turn: the lane is slow
        look_up = place.look_up

        def look_up_slowly(pieces: Sequence[Piece]) -> Sequence[Piece]:
            looking.set()
            look_on.wait(10)
            return look_up(pieces)

        place.intake._look_up = look_up_slowly
        place.put(blocking[2])
        await asyncio.to_thread(looking.wait, 10)
        quick = Piece(lane="quick")
        place.put(quick)  # while somebody has the turn, who is about to leave it
        await asyncio.sleep(0.05)
        look_on.set()
        try:
            assert await asyncio.wait_for(quick.future, 2) == "handled"
        finally:
            go_on.set()
