"""Public keys and certificates from their provider: only where they are known to be, and seldom.

What a request says may choose among documents of fixed hosts, never a host. Each is kept; what is
not there is remembered too, apart from it; and however many requests ask for new ones, few are
fetched, and those that are known are renewed all the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

logger = logging.getLogger(__name__)

FETCH_SECONDS = 10.0
MAX_BYTES = 262_144
_WINDOW_SECONDS = 60.0


class Documents:
    """Fetched documents by URL.

    Their hosts are the caller's to check; it never asks for one that a request could choose.
    """

    def __init__(
        self, *, lifetime: float = 3600.0, burst: int = 10, most: int = 64, failures: int = 256
    ) -> None:
        """Keep nothing yet.

        Args:
            lifetime: Seconds that a document is good for.
            burst: How many that were never had are fetched in a minute at most.
            most: How many are kept.
            failures: Of how many it is remembered that they are not to be had.
        """
        self._lifetime = lifetime
        self._most = most
        self._failures = failures
        self._kept: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._failed: OrderedDict[str, float] = OrderedDict()
        self._started: deque[float] = deque(maxlen=burst)
        self._under_way: dict[str, asyncio.Future[None]] = {}

    def get(self, name: str, now: float) -> bytes | None:
        """Return a document that is here and still good."""
        kept = self._kept.get(name)
        if kept is None or not kept[1] <= now < kept[1] + self._lifetime:
            return None
        self._kept.move_to_end(name)
        return kept[0]

    def age(self, name: str, now: float) -> float:
        """Return the seconds since it was last asked for, with or without success."""
        _, fetched = self._kept.get(name, (b"", float("-inf")))
        return now - max(fetched, self._failed.get(name, float("-inf")))

    def put(self, name: str, content: bytes | None, now: float) -> None:
        """Keep a document; None says that it is not to be had.

        What could not be renewed stays what it was for as long as it was good, and stays known.
        """
        if content is None:
            self._failed[name] = now
            self._failed.move_to_end(name)
            while len(self._failed) > self._failures:
                self._failed.popitem(last=False)
            return
        self._failed.pop(name, None)
        self._kept[name] = (content, now)
        self._kept.move_to_end(name)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)

    async def fetch(
        self, url: str, now: float, *, name: str = "", post: Mapping[str, str] | None = None
    ) -> None:
        """Fetch a document, unless that is under way or too many have been fetched.

        Args:
            url: Where it is.
            now: Seconds since the epoch.
            name: What it is kept as; by default its URL.
            post: A JSON body to post; otherwise it is got.
        """
        name = name or url
        waiting = self._under_way.get(name)
        if waiting is not None:
            await asyncio.shield(waiting)
            return
        if not self._may_fetch(name, now):
            return
        done = asyncio.get_running_loop().create_future()
        self._under_way[name] = done
        content: bytes | None = None
        try:
            content = await download(url, post)
        finally:
            self.put(name, content, now)
            del self._under_way[name]
            done.set_result(None)

    def _may_fetch(self, name: str, now: float) -> bool:
        """Whether it is time: for one that was had once, whatever others are asked for."""
        if name in self._kept:
            return self.age(name, now) >= _WINDOW_SECONDS
        if len(self._started) == self._started.maxlen and now - self._started[0] < _WINDOW_SECONDS:
            return False
        self._started.append(now)
        return True


async def download(url: str, post: Mapping[str, str] | None = None) -> bytes | None:
    """Return what is at an https URL; None where that is not to be had.

    No redirect is followed; at most `MAX_BYTES` are read and `FETCH_SECONDS` waited.
    """
    import httpx  # noqa: PLC0415 - slow to load, and most schemes fetch nothing

    if not url.startswith("https://"):
        return None
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            context = await asyncio.to_thread(_context)
            async with httpx.AsyncClient(verify=context, follow_redirects=False) as client:
                method = "GET" if post is None else "POST"
                async with client.stream(method, url, json=post) as answer:
                    if answer.status_code != 200:
                        logger.warning("%s answered %d", httpx.URL(url).host, answer.status_code)
                        return None
                    content = b""
                    async for chunk in answer.aiter_bytes():
                        content += chunk
                        if len(content) > MAX_BYTES:
                            return None
                    return content
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
        logger.warning("%s can't be reached: %s", httpx.URL(url).host, type(error).__name__)
        return None


@lru_cache(maxsize=1)
def _context() -> ssl.SSLContext:
    import httpx  # noqa: PLC0415

    return httpx.create_ssl_context()
