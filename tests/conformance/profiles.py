"""How long, and how randomly, random lives are lived."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

from netscript_workers.store.engine import Store
from netscript_workers.testing import ManualClock
from tests.conformance.lives import Lives

# More than such a test may take, so that what it prunes was made before.
_AHEAD = 24 * 3600


def profile(*, examples: int, steps: int, derandomize: bool) -> settings:
    """Return settings for so many lives of so many steps."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=derandomize,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def machine_for(store: Store, clock: ManualClock) -> type[Lives]:
    """Return the machine on a store whose present is this clock's."""
    # Ids carry the machine's time and bound what is pruned: the clock stays ahead of them.
    clock.advance(_AHEAD)
    return type("LivesHere", (Lives,), {"store": store, "clock": clock})
