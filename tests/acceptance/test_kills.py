"""The kills of `make chaos`, a few of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.kills import accept_under_kills, drain_under_kills


def test_workers_killed_while_they_drain(database_url: str, tmp_path: Path) -> None:
    report = drain_under_kills(
        database_url, tmp_path, executions=160, kills=1, concurrency=4, seconds=0.15
    )
    assert report.kills == 1


@pytest.mark.trap("D-42")
def test_servers_killed_while_they_accept(database_url: str, tmp_path: Path) -> None:
    assert "accepted" in accept_under_kills(database_url, tmp_path, kills=1, senders=4)
