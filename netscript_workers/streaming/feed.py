"""The feed: one reader of the list of commits in a process, and whoever subscribes to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from netscript_workers.store import following
from netscript_workers.store.engine import Store
from netscript_workers.streaming.frames import (
    Frame,
    Position,
    Wanted,
    frames_of,
    heartbeat,
    opening,
    parse_position,
    progress_frame,
    reset,
)
from netscript_workers.streaming.mailboxes import CHUNK_BYTES, Mailbox, Mailboxes

logger = logging.getLogger(__name__)

T = TypeVar("T")

HEARTBEAT_SECONDS = 15.0
# Commits that are read at a time; each may have many executions.
_PAGE = 32
# Pages that are kept for those who resume side by side, after a restart say, and their bytes.
_PAGES = 64
_PAGES_BYTES = 16 * 1_048_576
_LOOK_SECONDS = 0.1
_PROGRESS_SECONDS = 0.5
_LAST_BACKOFF = 5.0
_THREADS = 2


@dataclass(frozen=True, slots=True)
class _Page:
    """The frames of commits whose numbers follow each other."""

    frames: Sequence[Frame]
    first: int
    last: int
    size: int
    # Nothing that is committed later can belong to it.
    is_whole: bool


@dataclass(slots=True)
class _Pages:
    """The pages that were read last."""

    kept: dict[int, _Page] = field(default_factory=dict[int, _Page])
    size: int = 0

    def keep(self, number: int, page: _Page) -> None:
        before = self.kept.pop(number, None)
        self.size += page.size - (before.size if before else 0)
        self.kept[number] = page
        while len(self.kept) > _PAGES or self.size > _PAGES_BYTES:
            self.size -= self.kept.pop(next(iter(self.kept))).size


class _PrunedError(Exception):
    """What a subscriber has missed is not there any more."""


class Feed:
    """Tells subscribers what commits leave executions as, in commit order.

    It reads the list of commits, and numbers them, while somebody subscribes. Each frame is made
    once. Who comes back with a position, or reads so slowly that its mailbox is full, is given
    what it has missed from the database, page by page, until it is where the feed is.
    """

    def __init__(self, store: Store, *, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        """Prepare; nothing is read before somebody subscribes.

        Args:
            store: Whose commits.
            heartbeat_seconds: After so many without news, a subscriber gets a heartbeat.
        """
        self._store = store
        self._heartbeat_seconds = heartbeat_seconds
        self._mailboxes = Mailboxes()
        # All that is up to here has been put into mailboxes; None while nobody follows.
        self._at: int | None = None
        self._is_ended = False
        self._starting = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None
        self._pages = _Pages()
        self._reads: dict[int, asyncio.Future[_Page]] = {}
        self._told: dict[str, tuple[float, str | None]] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="netscript-feed")

    def __len__(self) -> int:
        """Return how many are subscribed and have what they missed."""
        return len(self._mailboxes)

    @property
    def is_reading(self) -> bool:
        """Whether it looks at the database now and then; it does for a while after the last one."""
        return self._at is not None

    def end(self) -> None:
        """End every subscription; its subscriber comes back to whoever serves then."""
        self._is_ended = True
        self._mailboxes.end()

    async def close(self) -> None:
        """Stop reading; whoever is still subscribed hears nothing more."""
        self.end()
        if self._following is not None:
            self._following.cancel()
            with suppress(asyncio.CancelledError):
                await self._following
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def subscribe(
        self, wanted: Wanted, resume: str | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Return what yields what a subscriber is sent, until the feed ends.

        Args:
            wanted: What it wants to hear of.
            resume: The id of the last event that it has seen, if it has seen one.

        Raises:
            SQLAlchemyError: The database does not answer.
        """
        return self._messages(wanted, *await self._begin(resume))

    async def _messages(
        self, wanted: Wanted, position: Position, missed: str | None
    ) -> AsyncGenerator[bytes, None]:
        yield opening(position) if missed is None else reset(position, missed)
        box = Mailbox(wanted)
        try:
            while not self._is_ended:
                try:
                    async for so_far, data in self._missed(box, position):
                        position = so_far
                        yield data
                    position = box.position
                except _PrunedError:
                    position, _ = await self._begin(None)
                    yield reset(position, "pruned")
                    continue
                while not (box.is_full or self._is_ended):
                    if await box.wait(self._heartbeat_seconds):
                        position, data = box.take(position)
                        yield data
                    elif not box.is_full:
                        position = box.position
                        yield heartbeat(position)
        except SQLAlchemyError as error:
            _tell("a subscriber was sent away, to come back where it was", error)
        finally:
            self._mailboxes.remove(box)

    async def _begin(self, resume: str | None) -> tuple[Position, str | None]:
        """Return where a subscriber goes on, and why that is not where it was, if it is not."""
        newest = await self._in_a_thread(lambda: following.number(self._store))
        if resume is None or not resume.strip():
            return Position(newest), None
        position = parse_position(resume)
        if position is None or position.seq > newest:
            return Position(newest), "unknown"
        oldest, newest = await self._in_a_thread(lambda: following.bounds(self._store))
        # What followed in a commit that is not there any more can't be told.
        known = oldest - 1 if position == Position(position.seq) else oldest
        if position.seq < known:
            return Position(newest), "pruned"
        return position, None

    async def _missed(
        self, box: Mailbox, position: Position
    ) -> AsyncGenerator[tuple[Position, bytes], None]:
        """Yield what has come after a position; then the mailbox is where the feed is."""
        now = asyncio.get_running_loop().time
        told_at = now()
        while not self._is_ended:
            at = await self._follow()
            if position >= Position(at):
                self._mailboxes.add(box, position)
                return
            after = position.seq if position == Position(position.seq) else position.seq - 1
            page = await self._page(after)
            if after + 1 < page.first:
                raise _PrunedError
            if page.last == after:  # it was read before there was more
                await asyncio.sleep(0)
                continue
            chunk: list[bytes] = []
            size, start = 0, position
            for frame in page.frames:
                assert frame.position is not None
                if frame.position > start and frame.fits(box.wanted):
                    chunk.append(frame.data)
                    size += len(frame.data)
                    if size >= CHUNK_BYTES:
                        yield frame.position, b"".join(chunk)
                        chunk, size, told_at = [], 0, now()
            position = Position(page.last)
            if not chunk and now() - told_at > self._heartbeat_seconds:
                chunk.append(heartbeat(position))  # nothing of it was wanted, and it goes on
            if chunk:
                yield position, b"".join(chunk)
                told_at = now()

    async def _page(self, after: int) -> _Page:
        """Return a page; those who ask for it at the same time share one look at the database.

        Pages end at multiples of their length, so that those who begin at different places soon
        share them.
        """
        page = self._pages.kept.get(after)
        if page is not None:
            await asyncio.sleep(0)  # many may have many pages to go through
            return page
        reading = self._reads.get(after)
        if reading is None:
            reading = self._reads[after] = asyncio.ensure_future(self._read_page(after))
        return await asyncio.shield(reading)

    async def _read_page(self, after: int) -> _Page:
        try:
            page = await self._in_a_thread(lambda: self._read(after))
        finally:
            # Who asks from now on may need what has been committed since.
            del self._reads[after]
        if page.first == after + 1 and page.is_whole:
            self._pages.keep(after, page)
        return page

    def _read(self, after: int) -> _Page:
        reading = following.read(self._store, after, limit=_PAGE - after % _PAGE)
        frames = frames_of(reading)
        size = sum(len(one.data) for one in frames)
        is_whole = reading.last > after and (reading.is_cut or reading.last % _PAGE == 0)
        return _Page(frames, reading.first, reading.last, size, is_whole)

    # Following.

    async def _follow(self) -> int:
        """Have somebody follow; return up to where all is in the mailboxes."""
        if self._at is None:
            async with self._starting:
                if self._at is None:
                    self._at = await self._in_a_thread(lambda: following.number(self._store))
                    self._following = asyncio.create_task(self._run())
        assert self._at is not None
        return self._at

    async def _run(self) -> None:
        backoff, progress_at = _LOOK_SECONDS, 0.0
        loop = asyncio.get_running_loop()
        idle = 0
        try:
            while True:
                # Who resumes is without a mailbox for a moment. Between this look and the end
                # nobody can get one.
                idle = 0 if self._mailboxes else idle + 1
                if idle > self._heartbeat_seconds / _LOOK_SECONDS:
                    return
                try:
                    await self._look()
                    if loop.time() >= progress_at:
                        await self._look_at_progress()
                        progress_at = loop.time() + _PROGRESS_SECONDS
                except Exception as error:  # noqa: BLE001 - the next look may do better
                    _tell("the live stream was put off", error)
                    backoff = min(backoff * 2, _LAST_BACKOFF)
                else:
                    backoff = _LOOK_SECONDS
                await asyncio.sleep(backoff)
        finally:
            self._at = None
            self._told.clear()

    async def _look(self) -> None:
        """Put what has been committed into the mailboxes."""
        newest = await self._in_a_thread(lambda: following.number(self._store))
        assert self._at is not None
        while self._at < newest:
            after = self._at
            page = await self._in_a_thread(partial(self._read, after))
            if page.first > after + 1:  # nobody could read for longer than commits are kept
                self._mailboxes.give_up()
            if page.last == after:
                return
            for frame in page.frames:
                self._mailboxes.put(frame)
            self._at = page.last
            self._mailboxes.move(Position(page.last))

    async def _look_at_progress(self) -> None:
        """Tell how far running executions are, where that has changed."""
        if not self._mailboxes:
            return
        found = await self._in_a_thread(lambda: following.progress(self._store))
        told: dict[str, tuple[float, str | None]] = {}
        for one in found:
            told[one.id] = (one.percent, one.message)
            if self._told.get(one.id) != told[one.id]:
                self._mailboxes.put(progress_frame(one))
        self._told = told
        self._mailboxes.wake()

    async def _in_a_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _tell(what: str, error: Exception) -> None:
    cause = getattr(error, "orig", None) or error
    logger.warning("%s: %s", what, type(cause).__name__)
