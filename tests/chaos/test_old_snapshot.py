"""An idle transaction beside a busy queue: two minutes, or NETSCRIPT_TEST_SOAK_MINUTES."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import median

import pytest

from tests.chaos.measures import WINDOW
from tests.chaos.old_snapshot import QUIET_WINDOWS, RATE, hold_a_snapshot

pytestmark = [pytest.mark.chaos, pytest.mark.postgres]

MINUTES = float(os.environ.get("NETSCRIPT_TEST_SOAK_MINUTES", "2"))
# Two seconds' worth of work, on a machine that may be busy with other things.
MOST_WAITING = 2 * RATE
WARNED_WITHIN = 60.0


@pytest.mark.trap("D-56")
def test_beside_an_old_snapshot_work_goes_on_and_somebody_tells(
    postgres_url: str, tmp_path: Path
) -> None:
    result = hold_a_snapshot(postgres_url, tmp_path, MINUTES, say=print)
    print(result)
    minute = round(60 / WINDOW)
    held = result.windows[QUIET_WINDOWS:]
    first, last = held[:minute], held[-minute:]
    for name, part in (("first", first), ("last", last)):
        p50, p95 = median(one.p50 for one in part), median(one.p95 for one in part)
        print(f"claims in the {name} minute: p50 {p50:.1f} ms, p95 {p95:.1f} ms")
    assert result.findings == []
    assert result.warned_after is not None
    assert result.warned_after <= WARNED_WITHIN
    assert median(one.backlog for one in last) <= MOST_WAITING
    assert last[-1].dead > RATE * 60 * MINUTES / 2, (
        "the snapshot kept nothing, so this shows nothing"
    )
