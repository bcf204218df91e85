"""Signed deliveries over raw sockets: a client that costs a tenth of what it loads."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

SECRET = "whsec_chaos"
# A sender gives a server this long, then takes the answer for lost and sends again.
ANSWER_SECONDS = 20.0


@dataclass(slots=True)
class Delivery:
    """One order; `answer` is what the first 202 said."""

    number: int
    path: str
    event_id: str = ""
    executions: tuple[str, ...] = ()
    # How often it was sent without an answer that can be trusted: it may be stored all the same.
    lost: int = 0

    @property
    def body(self) -> bytes:
        return json.dumps({"id": f"order-{self.number}", "number": self.number}).encode()


class Connection:
    """One HTTP/1.1 connection that is kept alive, and made anew when it breaks."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Post a signed body; return status and answer.

        Raises:
            OSError: There was none.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"X-NetScript-Signature: {digest}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                return int(head[9:12]), await reader.readexactly(length)
        except (OSError, EOFError) as error:  # TimeoutError is an OSError
            await self.close()
            raise ConnectionError from error

    async def close(self) -> None:
        if self._streams is not None:
            writer = self._streams[1]
            self._streams = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@dataclass
class Load:
    """Sends deliveries to servers at a pace; sends again what was not answered with a 202.

    Attributes:
        twice: The share of deliveries that are sent a second time at once, to the other server.
    """

    ports: Sequence[int]
    twice: float = 0.05
    accepted: list[Delivery] = field(default_factory=list[Delivery])
    statuses: Counter[str] = field(default_factory=Counter[str])
    stopping: bool = False
    number: int = 0
    _rate: float = 0.0
    _owed: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    def set_rate(self, rate: float) -> None:
        """Send so many a second from now on; what could not be sent so far is forgotten."""
        self._rate, self._owed = rate, asyncio.Semaphore(0)

    async def run(self, senders: int) -> None:
        """Send until `stopping`."""
        async with asyncio.TaskGroup() as group:
            pacing = group.create_task(self._pace())
            workers = [group.create_task(self._work(seed)) for seed in range(senders)]
            await asyncio.wait(workers, return_when=asyncio.ALL_COMPLETED)
            pacing.cancel()

    async def _pace(self) -> None:
        owed, at = 0.0, time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            owed += (now - at) * self._rate
            at = now
            for _ in range(int(owed)):
                self._owed.release()
            owed %= 1

    async def _work(self, seed: int) -> None:
        chance = random.Random(seed)
        connections = [Connection(port) for port in self.ports]
        while not self.stopping:
            try:
                async with asyncio.timeout(0.2):
                    await self._owed.acquire()
            except TimeoutError:
                continue
            self.number += 1
            path = "/webhooks/later" if self.number % 10 == 5 else "/webhooks/orders"
            await self._deliver(Delivery(self.number, path), connections, chance)
        for connection in connections:
            await connection.close()

    async def _deliver(
        self, delivery: Delivery, connections: Sequence[Connection], chance: random.Random
    ) -> None:
        place = chance.randrange(len(connections))
        while (answer := await self.send(delivery, connections[place])) is None:
            place = (place + 1) % len(connections)
            await asyncio.sleep(0.02)
        delivery.event_id = answer["event_id"]
        delivery.executions = tuple(answer["executions"])
        self.accepted.append(delivery)
        if chance.random() < self.twice:
            again = await self.send(delivery, connections[1 - place])
            assert again is None or (
                again["duplicate"] and again["event_id"] == delivery.event_id
            ), again

    async def send(self, delivery: Delivery, connection: Connection) -> dict[str, Any] | None:
        """Send once; return what a 202 said."""
        try:
            status, answer = await connection.post(delivery.path, delivery.body)
        except ConnectionRefusedError:
            self.statuses["refused"] += 1
            return None
        except OSError:
            self.statuses["lost"] += 1
            delivery.lost += 1
            return None
        self.statuses[str(status)] += 1
        if status != 202:
            assert status == 503, answer
            delivery.lost += 1  # a commit whose answer was lost is a 503 too
            return None
        found: dict[str, Any] = json.loads(answer)
        return found


async def redeliver(load: Load, deliveries: Sequence[Delivery]) -> None:
    """Send again what was taken: every answer is the first one's, and nothing is new."""
    gate, left = asyncio.Lock(), list(deliveries)

    async def work(seed: int) -> None:
        connections = [Connection(port) for port in load.ports]
        while left:
            async with gate:
                if not left:
                    break
                delivery = left.pop()
            answer = await load.send(delivery, connections[seed % len(connections)])
            assert answer is not None, "a server that nobody killed did not answer"
            assert answer["duplicate"], delivery
            assert answer["event_id"] == delivery.event_id, (delivery, answer)
            if delivery.executions:
                assert tuple(answer["executions"]) == delivery.executions, (delivery, answer)
        for connection in connections:
            await connection.close()

    await asyncio.gather(*(work(seed) for seed in range(8)))
