"""pebble's pool of processes: without a store, so what it holds is lost with it."""

from __future__ import annotations

from typing import Any

import pebble as package

from benchmarks.contestants import kit


def noop(sent: int) -> None:
    kit.ran(sent)


class Pebble(kit.Contestant):
    def open(self) -> None:
        self._futures: list[Any] = []

    def fill(self, count: int) -> None:
        """Nothing outlives this process."""
        self._count = count

    def waiting(self) -> int:
        """Say so of the process that fills: it has nothing to show."""
        return self._count

    def has_settled(self, count: int) -> bool:
        return all(one.done() for one in self._futures)

    def pool(self, count: int) -> None:
        self.open()
        with package.ProcessPool(max_workers=kit.SLOTS) as pool:
            self._futures += (pool.schedule(noop, args=(n,)) for n in range(count))
            for one in self._futures:
                one.result()


if __name__ == "__main__":
    kit.main(Pebble())
