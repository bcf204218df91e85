"""The drain of `make chaos`, a small one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.drains import drain_at_once


@pytest.mark.trap("D-01")
@pytest.mark.trap("D-16")
def test_each_execution_starts_once_however_many_processes_drain(
    database_url: str, tmp_path: Path
) -> None:
    drain_at_once(database_url, tmp_path, executions=1500, workers=3)
