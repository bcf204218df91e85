"""The live stream: what commits leave, in their order, for whoever subscribes or resumes."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest

from netscript_workers.domain import ExecutionStatus
from netscript_workers.store import changes, following, outbox
from netscript_workers.store.engine import Store
from netscript_workers.store.idempotency import DEFAULT_WINDOW
from netscript_workers.store.outbox import Submission
from netscript_workers.streaming import feed as feeds
from netscript_workers.streaming import mailboxes
from netscript_workers.streaming.feed import Feed
from netscript_workers.streaming.frames import Position, Wanted, parse_position
from tests.kit import Hand, new, put, run

EVERYTHING = Wanted()


@dataclass(frozen=True)
class Heard:
    """One event of the stream."""

    event: str
    data: Any
    id: str | None


def heard_in(chunk: bytes) -> list[Heard]:
    """Read events the way a subscriber does."""
    found: list[Heard] = []
    for block in chunk.decode().split("\n\n")[:-1]:
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append(Heard(lines["event"], json.loads(lines["data"]), lines.get("id")))
    return found


async def listen(
    feed: Feed, wanted: Wanted = EVERYTHING, resume: str | None = None
) -> AsyncGenerator[Heard]:
    async with aclosing(await feed.subscribe(wanted, resume)) as messages:
        async for chunk in messages:
            for one in heard_in(chunk):
                yield one


async def updates(
    feed: Feed, count: int, wanted: Wanted = EVERYTHING, resume: str | None = None
) -> list[Heard]:
    """Listen until so many updates have come."""
    found: list[Heard] = []
    async with asyncio.timeout(20), aclosing(listen(feed, wanted, resume)) as stream:
        async for one in stream:
            if one.event == "execution.updated":
                found.append(one)
            if len(found) == count:
                break
    return found


def committed(store: Store) -> list[tuple[str, str]]:
    """Return the ids and the executions that there are to hear of, in commit order."""
    following.number(store)
    with store.read() as conn:
        found = changes.read(conn, 0, limit=100_000)
    return [
        (f"{change.seq}:{index}", id_)
        for change in found
        for index, (id_, _) in enumerate(change.items)
    ]


def told(found: Sequence[Heard]) -> list[tuple[str | None, str]]:
    return [(one.id, one.data["id"]) for one in found]


@pytest.fixture
async def feed(store: Store) -> AsyncGenerator[Feed]:
    made = Feed(store, heartbeat_seconds=0.3)
    yield made
    await made.close()


async def test_who_subscribes_hears_what_comes_in_the_order_of_the_commits(
    store: Store, feed: Feed
) -> None:
    put(store, new())  # before anybody subscribed
    before = committed(store)
    stream = listen(feed)
    opening = await anext(stream)
    assert (opening.event, opening.data) == ("heartbeat", {})
    assert opening.id == before[-1][0].partition(":")[0]
    heard: list[Heard] = []

    async def collect() -> None:
        async for one in stream:
            if one.event == "execution.updated":
                heard.append(one)
            if len(heard) == 5:
                break

    collecting = asyncio.create_task(collect())
    await asyncio.to_thread(put, store, new(), new())
    await asyncio.to_thread(put, store, new("b"))
    hand = Hand(store)
    hand.register()
    (claimed,) = await asyncio.to_thread(hand.claim, 1)
    await asyncio.to_thread(hand.end, claimed)
    await asyncio.wait_for(collecting, 20)
    assert told(heard) == committed(store)[1:6]
    await stream.aclose()


async def test_only_what_is_wanted_is_told(store: Store, feed: Feed) -> None:
    first, other = new("a"), new("b", topic="t")
    start = str(committed_at(store))
    put(store, first, new("a"), other, new("b"))
    wants = {
        Wanted(execution_id=first.id): [first.id],
        Wanted(job_id="b", topic="t"): [other.id],
        Wanted(topic="t"): [other.id],
        Wanted(execution_id=other.id, job_id="b", status=ExecutionStatus.QUEUED): [other.id],
    }
    for wanted, ids in wants.items():
        found = await updates(feed, len(ids), wanted, resume=start)
        assert [one.data["id"] for one in found] == ids
    everything = await updates(feed, 4, resume=start)
    assert told(everything) == committed(store)
    waits = asyncio.create_task(updates(feed, 1, Wanted(job_id="b", topic="t")))
    await asyncio.sleep(0.2)
    put(store, new("a", topic="t"), new("b"), last := new("b", topic="t"))
    assert [one.data["id"] for one in await waits] == [last.id]


def committed_at(store: Store) -> int:
    return following.number(store)


async def test_who_comes_back_misses_nothing_and_hears_nothing_twice(store: Store) -> None:
    for _ in range(5):
        put(store, *[new() for _ in range(20)])
    everything = committed(store)
    at, heard = "0", list[tuple[str | None, str]]()
    while len(heard) < len(everything):
        feed = Feed(store)  # as a server that was started again has it
        some = await updates(feed, min(7, len(everything) - len(heard)), resume=at)
        await feed.close()
        heard += told(some)
        at = some[-1].id or ""
    assert heard == everything


async def test_a_transaction_that_commits_late_is_told_when_it_commits(
    store: Store, feed: Feed
) -> None:
    if store.is_sqlite:
        pytest.skip("there is one writer at a time")
    slow, quick = new(), new()
    written, may_commit = threading.Event(), threading.Event()

    def write_slowly() -> None:
        with store.begin() as conn:
            outbox.store(
                conn,
                store.dialect,
                [Submission(executions=(slow,))],
                now=store.now(conn),
                window=DEFAULT_WINDOW,
            )
            written.set()
            may_commit.wait(20)

    at = str(committed_at(store))
    writing = asyncio.create_task(asyncio.to_thread(write_slowly))
    await asyncio.to_thread(written.wait, 20)
    put(store, quick)  # its row was inserted later and is committed first
    (first,) = await updates(feed, 1, resume=at)
    may_commit.set()
    await writing
    (second,) = await updates(feed, 1, resume=first.id)
    assert [first.data["id"], second.data["id"]] == [quick.id, slow.id]
    assert told([first, second]) == committed(store)


@pytest.mark.parametrize("given", ["7000000", "7000000:0", "x", "1:", "-1", "1" * 40, "²"])
async def test_an_id_that_is_not_known_is_told_so(store: Store, feed: Feed, given: str) -> None:
    put(store, new())
    first = await anext(listen(feed, resume=given))
    newest = committed_at(store)
    assert first == Heard("reset", {"reason": "unknown"}, str(newest))


async def test_an_id_that_is_forgotten_is_told_so(store: Store, feed: Feed) -> None:
    for _ in range(70):
        put(store, new(), new())
    everything = committed(store)
    run(store, "DELETE FROM netscript_changes WHERE seq <= 66")
    for given, is_known in (("66", True), ("67:0", True), ("66:0", False), ("3", False)):
        first = await anext(listen(feed, resume=given))
        assert first.event == ("heartbeat" if is_known else "reset"), given
    found = await updates(feed, 8, resume="66")
    assert told(found) == everything[-8:]


async def test_what_is_forgotten_while_somebody_comes_back_is_told_so(
    store: Store, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(100):
        put(store, new())
    committed(store)
    monkeypatch.setattr(feeds, "_PAGES", 0)
    stream = listen(feed, resume="0")
    heard = [await anext(stream) for _ in range(5)]
    run(store, "DELETE FROM netscript_changes WHERE seq <= 80")
    async for one in stream:
        heard.append(one)
        if one.event == "reset":
            break
    assert heard[-1] == Heard("reset", {"reason": "pruned"}, "100")
    await stream.aclose()


async def test_who_reads_slowly_is_given_it_from_the_database(
    store: Store, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    fulls: list[bool] = []
    put_in = mailboxes.Mailbox.put

    def counted(box: mailboxes.Mailbox, frame: Any) -> bool:
        fulls.append(not put_in(box, frame))
        return not fulls[-1]

    monkeypatch.setattr(mailboxes.Mailbox, "put", counted)
    monkeypatch.setattr(mailboxes, "CHUNK_BYTES", 1)
    monkeypatch.setattr(mailboxes.Mailbox, "__init__", _small(mailboxes.Mailbox.__init__))
    start = committed_at(store)
    stream = listen(feed, resume=str(start))
    heard = [await anext(stream)]
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.3)
    for _ in range(40):
        await asyncio.to_thread(put, store, new(), new())
        if reading.done():  # it takes one a commit
            heard.append(reading.result())
            reading = asyncio.ensure_future(anext(stream))
    heard.append(await reading)
    async with asyncio.timeout(20):
        while len([one for one in heard if one.event == "execution.updated"]) < 80:
            heard.append(await anext(stream))
    await stream.aclose()
    assert any(fulls)
    assert told([one for one in heard if one.event == "execution.updated"]) == committed(store)


def _small(make: Callable[..., None]) -> Callable[..., None]:
    def made(box: mailboxes.Mailbox, wanted: Wanted) -> None:
        make(box, wanted, 2000)

    return made


async def test_who_hears_nothing_gets_heartbeats_to_resume_at(store: Store, feed: Feed) -> None:
    stream = listen(feed, Wanted(job_id="nobody"))
    opening = await anext(stream)
    put(store, new(), new())
    last = opening
    while last.id == opening.id:
        last = await anext(stream)
        assert (last.event, last.data) == ("heartbeat", {})
    assert last.id == str(committed_at(store))
    await stream.aclose()


async def test_progress_is_told_without_an_id(store: Store, feed: Feed) -> None:
    put(store, one := new())
    hand = Hand(store)
    hand.register()
    hand.claim(1)
    waits = asyncio.create_task(_first(feed, "execution.progress", Wanted(execution_id=one.id)))
    run(
        store,
        "UPDATE netscript_executions SET progress_percent = 40, progress_message = 'half' "
        "WHERE status = 'running'",
    )
    found = await asyncio.wait_for(waits, 20)
    assert found == Heard(
        "execution.progress", {"id": one.id, "percent": 40.0, "message": "half"}, None
    )


async def _first(feed: Feed, event: str, wanted: Wanted) -> Heard:
    async with aclosing(listen(feed, wanted)) as stream:
        async for one in stream:
            if one.event == event:
                return one
    raise AssertionError


async def test_many_come_and_go_while_there_is_work(
    store: Store, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each hears exactly what it wants, however often it leaves and comes back."""
    monkeypatch.setattr(mailboxes, "MAILBOX_BYTES", 3000)
    rng = random.Random(5)
    jobs = ["a", "b", "c"]
    start = str(committed_at(store))
    ended = asyncio.Event()

    async def subscriber(job: str | None) -> list[tuple[str | None, str]]:
        wanted, at = Wanted(job_id=job), start
        heard: list[tuple[str | None, str]] = []
        while True:
            left = rng.randrange(1, 40)
            async with aclosing(listen(feed, wanted, at)) as stream:
                async for one in stream:
                    at = one.id or at
                    left -= 1
                    if one.event == "execution.updated":
                        heard.append((one.id, one.data["id"]))
                    elif one.event == "heartbeat" and ended.is_set() and _is_at(at, store):
                        return heard
                    if left <= 0:
                        break

    names: list[str | None] = [None, None, *jobs * 10]
    listening = [asyncio.create_task(subscriber(job)) for job in names]
    made: dict[str, str] = {}
    for _ in range(60):
        some = [new(rng.choice(jobs)) for _ in range(rng.randrange(1, 6))]
        made.update({one.id: one.job_id for one in some})
        await asyncio.to_thread(put, store, *some)
    ended.set()
    async with asyncio.timeout(40):
        heard = await asyncio.gather(*listening)
    everything = committed(store)
    for name, found in zip(names, heard, strict=True):
        assert found == [one for one in everything if name in (None, made[one[1]])], name


def _is_at(at: str, store: Store) -> bool:
    position = parse_position(at)
    return position is not None and position >= Position(committed_at(store))


async def test_a_feed_that_nobody_listens_to_reads_nothing(store: Store, feed: Feed) -> None:
    put(store, new())
    await updates(feed, 1, resume="0")
    assert len(feed) == 0
    async with asyncio.timeout(10):
        while feed.is_reading:
            await asyncio.sleep(0.05)
    put(store, new())
    assert told(await updates(feed, 2, resume="0")) == committed(store)


async def test_who_comes_while_the_reading_is_about_to_end_is_read_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "_LOOK_SECONDS", 0.01)
    feed = Feed(store, heartbeat_seconds=0.02)
    for number in range(30):
        async with asyncio.timeout(10), aclosing(listen(feed)) as stream:
            await anext(stream)
            await asyncio.sleep(number / 1000)
            put(store, one := new())
            while (heard := await anext(stream)).event != "execution.updated":
                pass
            assert heard.data["id"] == one.id
        await asyncio.sleep(0.02 + number / 1000)
    await feed.close()


async def test_commits_of_many_executions_are_read_a_few_at_a_time(
    store: Store, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_MOST", 10)
    for count in (3, 25, 4, 4, 4, 30, 1):
        put(store, *[new() for _ in range(count)])
    everything = committed(store)
    assert told(await updates(feed, len(everything), resume="0")) == everything
    assert told(await updates(feed, 20, resume="2:7")) == everything[11:31]


async def test_commits_with_much_in_them_are_read_a_few_at_a_time(store: Store) -> None:
    many = ["x" * 700_000, *["y"] * 5, *["z" * 900_000] * 30]
    for number, word in enumerate(many):
        put(store, new("a", json.dumps({"text": word}), correlation_id=str(number)))
    following.number(store)
    sizes: list[int] = []
    heard: list[str | None] = []
    after = 0
    while (reading := following.read(store, after, limit=100)).last > after:
        after = reading.last
        sizes.append(sum(len(json.dumps(one.record.payload)) for one in reading.updates))
        heard += [one.record.correlation_id for one in reading.updates]
    assert heard == [str(number) for number in range(len(many))]
    assert max(sizes) < 9_000_000
    assert len(sizes) == 4


async def test_who_catches_up_for_long_without_news_hears_that_it_goes_on(store: Store) -> None:
    for _ in range(70):
        put(store, new())
    put(store, new("b"))
    feed = Feed(store, heartbeat_seconds=0.0)
    stream = listen(feed, Wanted(job_id="b"), resume="0")
    heard = [await anext(stream) for _ in range(4)]
    assert [one.event for one in heard[:3]] == ["heartbeat"] * 3
    assert [one.id for one in heard[:3]] == ["0", "32", "64"]
    assert heard[3].data["job_id"] == "b"
    await stream.aclose()
    await feed.close()
