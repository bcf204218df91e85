"""Workers whose clock is wrong: on PostgreSQL the database's own decides.

On SQLite every process runs on the machine of the file, so there is one clock.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from netscript_workers.store.engine import Store
from tests.kit import Hand, detail, new, put, scalar
from tests.support import clean_environment, write_project

# Loaded by the interpreter before anything of ours: this process lives in another time.
SKEW = """
import time
OFFSET = {offset} * 1_000_000_000
real = time.time_ns
time.time_ns = lambda: real() + OFFSET
time.time = lambda: time.time_ns() / 1e9
"""

WORKER = """
import json, sys, time
from pathlib import Path
from netscript_workers.ids import new_id
from netscript_workers.store import leases
from netscript_workers.store.engine import Store
from tests.kit import Hand
store = Store(sys.argv[1])
rescued = leases.rescue(store, new_id(), Path("/nonexistent"))
hand = Hand(store)
hand.register(lease=30)
print(json.dumps([time.time(), rescued, [claim.id for claim in hand.claim()]]))
"""


@pytest.mark.postgres
@pytest.mark.trap("D-38")
@pytest.mark.parametrize("offset", [600, -600])
def test_a_clock_ten_minutes_off_rescues_nobody_and_claims_nothing_early_or_late(
    postgres_url: str, tmp_path: Path, offset: int
) -> None:
    store = Store(postgres_url)
    put(store, held := new())
    healthy, dead = Hand(store), Hand(store)
    healthy.register(lease=300)  # which a clock ten minutes ahead would take for over
    healthy.claim_one()
    put(store, lost := new())
    dead.register(lease=-5)
    dead.claim_one()
    put(store, new(delay=300_000_000), due := new(delay=-1))
    now = scalar(store, "SELECT extract(epoch FROM clock_timestamp())")
    write_project(tmp_path, {"sitecustomize.py": SKEW.format(offset=offset)})
    told = subprocess.run(
        [sys.executable, "-c", WORKER, postgres_url],
        env={**clean_environment(), "PYTHONPATH": f"{tmp_path}:{Path.cwd()}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    clock, rescued, claimed = json.loads(told.stdout)
    assert abs(clock - float(now) - offset) < 60  # its clock is wrong indeed
    assert rescued == [lost.id]
    assert sorted(claimed) == sorted([lost.id, due.id])
    assert detail(store, held.id).execution.status == "running"
    # The lease it took is one of the database's time: for everybody else it lives.
    lease = "SELECT min(lease_until) / 1e6 - extract(epoch FROM clock_timestamp()) FROM "
    assert 0 < float(scalar(store, f"{lease} netscript_workers")) < 31
    store.dispose()
