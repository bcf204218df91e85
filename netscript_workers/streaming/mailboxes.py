"""Mailboxes: what subscribers have not been sent yet, each with a bound."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque

from netscript_workers.streaming.frames import Frame, Position, Wanted

# What somebody may leave unread; the frames are shared by all who get them.
MAILBOX_BYTES = 1_048_576
# What one of them is sent at a time.
CHUNK_BYTES = 65_536


class Mailbox:
    """What one subscriber has not been sent yet.

    Attributes:
        wanted: What its subscriber wants to hear of.
        position: Up to where it has been filled, whether anything fitted or not.
        is_full: It was: nothing comes in any more, and what it had is gone.
    """

    def __init__(self, wanted: Wanted, most: int | None = None) -> None:
        """Make one that holds up to `most` bytes, by default a MiB, and one frame of any size."""
        self.wanted = wanted
        self.position = Position(0)
        self.is_full = False
        self._most = MAILBOX_BYTES if most is None else most
        self._frames: deque[Frame] = deque()
        self._size = 0
        self._changed = asyncio.Event()

    def open(self, position: Position) -> None:
        """Begin empty at a position; what comes before it is not taken."""
        self.position, self.is_full = position, False
        self._empty()
        self._changed.clear()

    def put(self, frame: Frame) -> bool:
        """Take a frame; tell whether there was room for it."""
        if not frame.fits(self.wanted):
            return True
        if frame.position is not None and frame.position <= self.position:
            return True
        size = len(frame.data)
        if self._frames and self._size + size > self._most:
            self.give_up()
            return False
        self._frames.append(frame)
        self._size += size
        return True

    def give_up(self) -> None:
        """Let go of what is in it, for its subscriber has to read it elsewhere."""
        self.is_full = True
        self._empty()
        self._changed.set()

    def move(self, position: Position) -> None:
        """Note that all up to this position was put in, and wake who waits for it."""
        self.position = max(self.position, position)
        self.wake()

    def wake(self) -> None:
        """Wake who waits, if there is something."""
        if self._frames:
            self._changed.set()

    def end(self) -> None:
        """Wake who waits, for nothing more will come."""
        self._changed.set()

    async def wait(self, seconds: float) -> bool:
        """Wait for something to be sent; False where nothing came in time, or too much."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass
        return bool(self._frames)

    def take(self, position: Position) -> tuple[Position, bytes]:
        """Take a chunk of what there is.

        Args:
            position: Where its subscriber is.

        Returns:
            Where it is once it has the chunk, and the chunk.
        """
        taken: list[bytes] = []
        size = 0
        while self._frames and (not taken or size < CHUNK_BYTES):
            frame = self._frames.popleft()
            position = frame.position or position
            taken.append(frame.data)
            size += len(frame.data)
        self._size -= size
        if not self._frames:
            self._changed.clear()
            position = self.position
        return position, b"".join(taken)

    def _empty(self) -> None:
        self._frames.clear()
        self._size = 0


class Mailboxes:
    """All of them, found by what their subscribers want."""

    def __init__(self) -> None:
        """Begin with none."""
        self._all: set[Mailbox] = set()
        self._by_execution: defaultdict[str, set[Mailbox]] = defaultdict(set)
        self._by_job: defaultdict[str, set[Mailbox]] = defaultdict(set)
        self._others: set[Mailbox] = set()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._all)

    def add(self, box: Mailbox, position: Position) -> None:
        """Have a mailbox filled from a position on."""
        box.open(position)
        self._all.add(box)
        self._place_of(box).add(box)

    def remove(self, box: Mailbox) -> None:
        """Have it filled no more; nothing happens where it was not."""
        self._all.discard(box)
        self._place_of(box).discard(box)
        for known, key in (
            (self._by_execution, box.wanted.execution_id),
            (self._by_job, box.wanted.job_id),
        ):
            if key is not None and not known.get(key):
                known.pop(key, None)

    def put(self, frame: Frame) -> None:
        """Put a frame where it is wanted; who has no room is taken out."""
        places = (
            self._by_execution.get(frame.execution_id),
            self._by_job.get(frame.job_id),
            self._others,
        )
        full = [box for place in places if place for box in place if not box.put(frame)]
        for box in full:
            self.remove(box)

    def move(self, position: Position) -> None:
        """Note that all up to this position was put in."""
        for box in self._all:
            box.move(position)

    def give_up(self) -> None:
        """Take all out: what comes next in them is not known."""
        for box in list(self._all):
            box.give_up()
            self.remove(box)

    def wake(self) -> None:
        """Wake those who have something to send."""
        for box in self._all:
            box.wake()

    def end(self) -> None:
        """Wake all, for nothing more will come."""
        for box in self._all:
            box.end()

    def _place_of(self, box: Mailbox) -> set[Mailbox]:
        if box.wanted.execution_id is not None:
            return self._by_execution[box.wanted.execution_id]
        if box.wanted.job_id is not None:
            return self._by_job[box.wanted.job_id]
        return self._others
