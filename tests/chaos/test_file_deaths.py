"""Minutes of kills beside slow writers: run by `make chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.file_deaths import Servers, project, watch_under_kills

pytestmark = pytest.mark.chaos


@pytest.mark.parametrize("servers", [1, 2])
def test_two_thousand_files_are_one_event_each_however_often_servers_are_killed(
    database_url: str, tmp_path: Path, servers: int
) -> None:
    inbox = project(tmp_path) / "inbox"
    watchers = Servers(tmp_path, database_url, servers)
    print(watch_under_kills(database_url, inbox, watchers, count=2000, kills=20))
