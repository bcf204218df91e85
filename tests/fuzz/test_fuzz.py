"""Hypothesis at the fuzzer's targets: a little in the suite, ten minutes by `make fuzz`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.choices import Choices
from tests.fuzz.edge import ENVIRONMENT, Wire, wire
from tests.fuzz.targets import TARGETS

SECONDS = float(os.environ.get("NETSCRIPT_TEST_FUZZ_SECONDS", "60"))
DATA = st.binary(max_size=400)


def tried(target: Callable[[Choices], None], examples: int) -> None:
    """Try this many examples, new ones each time."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(DATA)
    def once(data: bytes) -> None:
        target(Choices(data))

    once()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        with wire(Path(tmp_path_factory.mktemp("fuzz"))) as found:
            yield found


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes_is_read_or_refused(name: str) -> None:
    tried(TARGETS[name], 500)


def test_whatever_comes_over_the_wire_is_answered(server: Wire) -> None:
    tried(server, 100)


@pytest.mark.chaos
@pytest.mark.parametrize("name", [*TARGETS, "edge"])
def test_for_minutes_whatever_comes_is_read_or_refused(name: str, server: Wire) -> None:
    target, batch = (server, 250) if name == "edge" else (TARGETS[name], 5_000)
    end, examples = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        tried(target, batch)
        examples += batch
    print(f"{name}: {examples:,} examples in {SECONDS:g} s")
