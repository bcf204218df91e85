"""A worker that dies while it ends the last of a batch; run as a program by a test.

One process imports everything and forks the rest, each of which dies one point later than the one
before it, until one lives.
"""

from __future__ import annotations

import os
import sys
import traceback
from itertools import count

from netscript_workers.store.engine import Store
from tests.batching import batch_of, drain, store_work
from tests.faults import Points
from tests.kit import Hand, ended


def end_the_last(url: str, die_at: int, pipe: int) -> None:
    store = Store(url)
    hand = Hand(store)
    store_work(store, batch_of(2))
    first, last = hand.claim(2)
    hand.tick(ended(first))
    Points(die_at, lambda name: os.write(pipe, name.encode()))
    hand.tick(ended(last), look=False)  # the note is for a later look
    drain(hand)
    os._exit(0)


def in_a_child(url: str, die_at: int) -> str | None:
    """Return the point at which the child was killed; None if it lived."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            end_the_last(url, die_at, writing)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        point = told.read().decode()
    _, how = os.waitpid(child, 0)
    if os.WIFSIGNALED(how):
        return point
    assert os.waitstatus_to_exitcode(how) == 0, "it failed before it could die"
    return None


def main() -> None:
    for die_at in count(1):
        point = in_a_child(sys.argv[1], die_at)
        if point is None:
            return
        print(point, flush=True)


main()
