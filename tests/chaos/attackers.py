"""All attacks at once, over and over: `python -m tests.chaos.attackers PORT SECONDS [WAVE ...]`.

It is as polite to the machine as a stranger on another one would be: the processor is given to the
server and its good senders first. It prints what was answered, and what should not have been.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from tests.attacks import ANSWER_SECONDS, BODY, QUICK, Attack, attack, request, statuses

_HEAD = b"POST /webhooks/payment HTTP/1.1\r\nHost: localhost\r\n"
_LARGE = b'{"cents":5,"text":"' + b"x" * 1_000_000 + b'"}'
_REPLAYED = b'{"cents":5,"order":"replayed"}'
# So many times longer are the pauses than a machine can bear that does nothing else: a server that
# has no processor left answers nobody in time, and it is not that which is asked here.
_PACE = 5.0
_RESET = struct.pack("ii", 1, 0)

Told = Sequence[int]


async def _walk(port: int, failed: Callable[[str, Told], None]) -> Told:
    """Send one of the listed attacks, and look at what it is told."""
    one = random.choice(QUICK)
    told = await attack(port, one)
    if told not in one.told:
        failed(one.name, told)
    return told


async def _say(port: int, *pieces: bytes) -> Told:
    return await attack(port, Attack("", pieces, ()))


async def _drip(port: int, first: bytes, then: bytes, *, every: float) -> Told:
    """Send a little at a time until the server has had enough."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(first)
    answer = asyncio.create_task(reader.read())
    try:
        while not answer.done():
            await asyncio.wait([answer], timeout=every)
            writer.write(then)
        return [int(line[:3]) for line in answer.result().split(b"HTTP/1.1 ")[1:]]
    finally:
        answer.cancel()
        writer.close()


async def _drop(port: int, *, sent: bytes) -> Told:
    """Open a connection, say something, and reset it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    del reader
    writer.write(sent)
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
    return ()


async def _close_half(port: int, sent: bytes) -> Told:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    writer.write_eof()
    try:
        return await statuses(reader)
    finally:
        writer.close()


async def _never_read(port: int) -> Told:
    """Pipeline requests and take none of the answers."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
    _reader, writer = await asyncio.open_connection(sock=raw, limit=1)
    try:
        writer.write(b"GET /api/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 30)
        await asyncio.sleep(3.0)
    finally:
        writer.transport.abort()
    return ()


async def _expect(port: int) -> Told:
    """Ask for leave to send a body, then never send it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_HEAD + b"Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n")
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            line = await reader.readline()
        await asyncio.sleep(1.0)
        return [int(line[9:12])]
    finally:
        writer.transport.abort()


@dataclass(frozen=True)
class Wave:
    """An attack that so many connections repeat, each after a pause of so many seconds."""

    name: str
    connections: int
    pause: float
    once: Callable[[int], Awaitable[Told]]


def _waves(failed: Callable[[str, Told], None]) -> list[Wave]:
    challenge = b'{"type":"url_verification","challenge":"x"}'
    ask = "GET /webhooks/meta?hub.mode=subscribe&hub.verify_token=guess&hub.challenge=1 HTTP/1.1"
    return [
        Wave("the list", 1, 0.15, partial(_walk, failed=failed)),
        Wave("slow heads", 200, 0.1, partial(_drip, first=_HEAD, then=b"X: y\r\n", every=1.0)),
        Wave("slow bodies", 50, 0.1, partial(
            _drip, first=_HEAD + b"Content-Length: 1000000\r\n\r\n", then=b"x" * 100, every=1.0)),
        Wave("bodies that stop", 60, 0.5, partial(
            _drip, first=request(_LARGE)[:-100_000], then=b" ", every=1.0)),
        Wave("silence", 50, 0.1, partial(_drip, first=b"", then=b"", every=1.0)),
        Wave("a megabyte, signed", 1, 5.0, lambda port: _say(port, request(_LARGE))),
        Wave("a megabyte, forged", 4, 0.2, lambda port: _say(port, request(_LARGE, sign=BODY))),
        Wave("ten thousand header lines", 1, 0.1, lambda port: _say(
            port, _HEAD + b"X: y\r\n" * 10_000 + b"\r\n")),
        Wave("forged", 4, 0.05, lambda port: _say(port, request(sign=b"other"))),
        Wave("forged and pipelined", 2, 0.2, lambda port: _say(
            port, request(sign=b"other", close=False) * 20 + request(sign=b"other"))),
        Wave("replayed", 1, 0.1, lambda port: _say(
            port, request(_REPLAYED, path="/webhooks/orders"))),
        Wave("opened and dropped", 4, 0.05, partial(_drop, sent=b"")),
        Wave("dropped in a head", 2, 0.05, partial(_drop, sent=_HEAD)),
        Wave("dropped in a body", 2, 0.05, partial(_drop, sent=request(_LARGE)[:50_000])),
        Wave("dropped before the answer", 1, 0.1, partial(_drop, sent=request(BODY))),
        Wave("half closed", 1, 0.1, lambda port: _close_half(port, request())),
        Wave("half closed in a body", 2, 0.1, lambda port: _close_half(port, request()[:-3])),
        Wave("answers not taken", 2, 1.0, _never_read),
        Wave("leave to send", 4, 0.2, _expect),
        Wave("a forged question", 2, 0.1, lambda port: _say(
            port, request(challenge, path="/webhooks/slack", sign=BODY))),
        Wave("a guessed token", 2, 0.1, lambda port: _say(
            port, f"{ask}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())),
        Wave("asking for leave", 2, 0.1, lambda port: _say(port, request(
            b"", "WebHook-Request-Origin: a", path="/webhooks/events", method="OPTIONS"))),
    ]  # fmt: skip


@dataclass
class Attackers:
    """Runs every wave until it is time to stop."""

    port: int
    until: float
    only: Sequence[str] = ()
    statuses: Counter[int] = field(default_factory=Counter[int])
    done: Counter[str] = field(default_factory=Counter[str])
    wrong: list[str] = field(default_factory=list[str])

    async def run(self) -> None:
        waves = _waves(lambda name, told: self.wrong.append(f"{name}: {told}"))
        tasks = [
            asyncio.create_task(self._repeat(wave))
            for wave in waves
            if not self.only or wave.name in self.only
            for _ in range(wave.connections)
        ]
        await asyncio.wait(tasks, timeout=self.until - time.monotonic())
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _repeat(self, wave: Wave) -> None:
        while True:
            await asyncio.sleep(_PACE * wave.pause * random.uniform(0.5, 1.5))
            told: Told = ()
            try:
                told = await wave.once(self.port)
            except TimeoutError:
                self.wrong.append(f"{wave.name}: no answer in time")
            except (OSError, EOFError):
                self.done[f"{wave.name}, broken off"] += 1
            self.done[wave.name] += 1
            self.statuses.update(told)
            if any(status >= 500 for status in told):
                self.wrong.append(f"{wave.name}: {told}")


def main() -> None:
    """Attack, and print one line of JSON."""
    os.nice(19)
    port, seconds, *only = sys.argv[1:]
    attackers = Attackers(int(port), time.monotonic() + float(seconds), only)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(attackers.run())
    used = os.times()
    told = {
        "statuses": attackers.statuses,
        "done": attackers.done,
        "wrong": Counter(attackers.wrong),
        "cpu": used.user + used.system,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
