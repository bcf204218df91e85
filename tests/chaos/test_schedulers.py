"""Schedulers that are killed while they fire: run by `make chaos`."""

from __future__ import annotations

import random
import time
from datetime import timedelta
from pathlib import Path

import pytest

from netscript_workers.store.engine import Store
from tests.integration.scheduling import assert_each_once, fired, is_known, skipped, stored
from tests.support import ROOT, Process, eventually

pytestmark = pytest.mark.chaos

KILLS = 50
CODE = """
import signal, sys
from netscript_workers.store.engine import Store
from tests.integration.scheduling import declared, scheduler

given = (declared("all", every=1.0, catch_up="all"), declared("latest", every=1.0))
scheduler(Store(sys.argv[1]), *given).start()
signal.pause()
"""


@pytest.mark.trap("D-73")
def test_four_schedulers_killed_fifty_times_fire_each_second_once(
    database_url: str, tmp_path: Path
) -> None:
    chance = random.Random(73)
    store = Store(database_url)

    def start() -> Process:
        return Process("-c", CODE, database_url, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})

    living = [start() for _ in range(4)]
    try:
        eventually(lambda: is_known(store, "all"), 30)
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.0, 1.0))
            living.pop(chance.randrange(4)).kill()
            living.append(start())
        before = len(fired(store, "all"))
        eventually(lambda: len(fired(store, "all")) > before, 30)
    finally:
        for one in living:
            one.kill()
    anchor = stored(store, "all").anchor
    came = fired(store, "all")
    assert came == [anchor + timedelta(seconds=n) for n in range(1, len(came) + 1)]
    latest = sorted([*fired(store, "latest"), *(at for at, _ in skipped(store, "latest"))])
    anchor = stored(store, "latest").anchor
    assert latest == [anchor + timedelta(seconds=n) for n in range(1, len(latest) + 1)]
    assert_each_once(store, ["all", "latest"])
    assert not any("Traceback" in one.output for one in living)
    store.dispose()
