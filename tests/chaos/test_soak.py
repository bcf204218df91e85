"""Two minutes of the soak on each database; `make soak` runs all ten."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.soak import soak

pytestmark = pytest.mark.chaos

MINUTES = float(os.environ.get("NETSCRIPT_TEST_SOAK_MINUTES", "2"))


def test_under_half_its_load_nothing_is_lost_nothing_overlaps_and_nothing_grows(
    database_url: str, tmp_path: Path
) -> None:
    result = soak(database_url, tmp_path, minutes=MINUTES, rate=None, kill_every=5.0, say=print)
    print(result)
    assert result.kills >= MINUTES * 60 / 5 - 2
    assert not result.broken, "\n".join(["the end is not like the beginning:", *result.broken])
