"""A few hundred steps of random lives, the same ones every time; `make chaos` takes thousands."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from netscript_workers.store.engine import Store
from netscript_workers.testing import ManualClock
from tests.conformance.profiles import machine_for, profile


def test_whatever_happens_the_store_is_as_the_model_says(
    timed_store: Store, clock: ManualClock
) -> None:
    few: settings = profile(examples=8, steps=40, derandomize=True)
    run_state_machine_as_test(machine_for(timed_store, clock), settings=few)
