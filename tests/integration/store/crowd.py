"""Several processes on one database: workers that drain it and a server that fills it.

Run as a program by a test: it imports everything once, forks each process, and ends with 1 if any
of them had an error.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

from netscript_workers.store.engine import Store
from netscript_workers.store.outbox import Submission
from netscript_workers.store.writer import Writer
from tests.kit import Hand, ended, new, scalar
from tests.support import eventually

WORKERS = 4
FROM_THE_SERVER = 400


def work(url: str, total: int, record: str) -> None:
    """Claim and end, noting every start in a file that no transaction can take back."""
    starts = os.open(record, os.O_WRONLY | os.O_APPEND)
    store = Store(url)
    hand, count = Hand(store, ["mail"]), "SELECT count(*) FROM netscript_execution_history"

    def drained() -> bool:
        mine = hand.claim(8)
        while mine:
            os.write(starts, "".join(f"{claim.id}\n" for claim in mine).encode())
            mine = hand.tick(*map(ended, mine), slots=8).claimed
        return bool(scalar(store, count) >= total)

    eventually(drained, 120, "the end of the work")
    store.dispose()


def serve(url: str) -> None:
    """Accept as a server does: many at once, through the writer."""
    store = Store(url)
    writer = Writer(store)
    writer.start()
    futures = [
        writer.submit(Submission(executions=(new("mail", idempotency_key=f"web-{n}"),)))
        for n in range(FROM_THE_SERVER)
    ]
    for future in futures:
        assert not future.result(60).enqueued[0].duplicate
    writer.close()
    store.dispose()


def forked(task: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            task()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def main(url: str, total: int, record: str) -> int:
    children = [forked(lambda: work(url, total, record)) for _ in range(WORKERS)]
    children.append(forked(lambda: serve(url)))
    print("ready", flush=True)
    return max(os.waitpid(child, 0)[1] != 0 for child in children)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
