"""Circuits: when they open, when one event is tried, when they close."""

from __future__ import annotations

from typing import Any

import pytest

from netscript_triggers.circuits import UNTOUCHED, Circuit, Note, TriggerState, after
from netscript_triggers.states import TriggerStates
from netscript_workers.errors import ConfigurationError
from tests.edge import trigger

CIRCUIT = Circuit(failures=3, reset=10.0)


def failing(*, probe: bool = False) -> Note:
    return Note("t", CIRCUIT, "no", probe)


def fail(state: TriggerState, times: int, now: int = 0, *, probe: bool = False) -> TriggerState:
    for _ in range(times):
        state = after(state, failing(probe=probe), now)
    return state


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    state = fail(UNTOUCHED, 2)
    assert (state.is_open, state.failures, state.error) == (False, 2, "no")
    assert after(state, Note("t", CIRCUIT), 0) == UNTOUCHED
    state = fail(state, 1, now=5)
    assert state.is_open
    assert (state.opened_at, state.probe_at, state.opened) == (5, 10_000_005, 1)


def test_a_try_in_vain_is_followed_by_a_later_one_and_a_good_one_closes_it() -> None:
    state = fail(UNTOUCHED, 3)
    waits: list[int] = []
    for _ in range(7):
        state = fail(state, 1, probe=True)
        waits.append((state.probe_at or 0) // 1_000_000)
    assert waits == [20, 40, 80, 160, 300, 300, 300]
    assert after(state, Note("t", CIRCUIT, probe=True), 0) == UNTOUCHED


def test_what_ran_already_when_it_opened_puts_off_no_try() -> None:
    state = fail(UNTOUCHED, 3, now=5)
    assert fail(state, 2, now=999).probe_at == state.probe_at


def test_a_disabled_trigger_stays_disabled() -> None:
    state = TriggerState(enabled=False, failures=2)
    assert after(state, Note("t", CIRCUIT), 0) == TriggerState(enabled=False)
    assert not fail(state, 1).enabled


@pytest.mark.parametrize(
    "options",
    [
        *({"failures": value} for value in (0, 1.5, True)),
        *({"reset": value} for value in (0, float("inf"), "5", True)),
    ],
)
def test_a_circuit_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="Circuit"):
        Circuit(**options)


def test_only_what_changes_something_is_noted() -> None:
    states, webhook = TriggerStates(), trigger()
    states.note_success(webhook)
    assert states.take_notes() == []
    states.note_failure(webhook, "no")
    states.note_success(webhook)
    notes = states.take_notes()
    assert [one.error for one in notes] == ["no", None]
    states.give_back(notes)
    states.note_failure(trigger(circuit=None), "no")
    assert states.take_notes() == notes
    states.learn({"payment": TriggerState(failures=1)})
    states.note_success(webhook)
    assert len(states.take_notes()) == 1
