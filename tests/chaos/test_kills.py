"""Minutes of kills: run by `make chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.kills import accept_under_kills, drain_under_kills

pytestmark = pytest.mark.chaos


def test_two_workers_killed_fifty_times_finish_five_thousand_executions_once(
    database_url: str, tmp_path: Path
) -> None:
    print(
        drain_under_kills(
            database_url, tmp_path, executions=5000, kills=50, concurrency=6, seconds=0.2
        )
    )


@pytest.mark.trap("D-42")
def test_two_servers_killed_fifty_times_keep_every_202(database_url: str, tmp_path: Path) -> None:
    print(accept_under_kills(database_url, tmp_path, kills=50))
