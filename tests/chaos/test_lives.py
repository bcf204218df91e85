"""Thousands of steps of random lives, other ones every time: run by `make chaos`."""

from __future__ import annotations

import pytest
from hypothesis.stateful import run_state_machine_as_test

from netscript_workers.store.engine import Store
from netscript_workers.testing import ManualClock
from tests.conformance.profiles import machine_for, profile

pytestmark = pytest.mark.chaos


def test_whatever_happens_for_long_the_store_is_as_the_model_says(
    timed_store: Store, clock: ManualClock
) -> None:
    many = profile(examples=250, steps=60, derandomize=False)
    run_state_machine_as_test(machine_for(timed_store, clock), settings=many)
