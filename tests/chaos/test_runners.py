"""Hostile handlers by the dozen: run by `make chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.hostile import die_between_steps, survive

pytestmark = pytest.mark.chaos


@pytest.mark.trap("D-32")
@pytest.mark.trap("D-84")
async def test_five_hundred_good_ones_complete_among_sixty_that_crash_leak_and_hide(
    database_url: str, tmp_path: Path
) -> None:
    print(await survive(database_url, tmp_path, good=500, each=20))


async def test_a_hundred_handlers_killed_between_two_steps_repeat_no_effect(
    database_url: str, tmp_path: Path
) -> None:
    print(await die_between_steps(database_url, tmp_path, times=100))
