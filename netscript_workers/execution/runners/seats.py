"""Seats: how many executions a pool claims beyond those that its children run now.

A child that has nothing to do until the next tick has claimed something idles for longer than a
short execution takes. So where executions are short, the next few milliseconds' work waits here,
claimed. What waits for longer after all, because a long one came in between, is handed back.
"""

from __future__ import annotations

# So much work of each child waits for it at most: another worker might have run it by then.
AHEAD_SECONDS = 0.05
# What has waited for so long is handed back.
PATIENCE_SECONDS = 0.1
_MOST_PER_CHILD = 64
# How much of what is believed the last execution changes.
_WEIGHT = 0.125


class Seats:
    """Learns how long executions take. Told on the loop's thread, asked on any."""

    def __init__(self, children: int) -> None:
        """Claim nothing ahead before anything is known."""
        self._children = children
        self._usual: float | None = None
        self.each = 0
        self.ahead = 0

    def took(self, seconds: float) -> None:
        """Take in how long an execution has had a child."""
        usual = seconds if self._usual is None else self._usual
        self._usual = usual + _WEIGHT * (seconds - usual)
        self.each = min(int(AHEAD_SECONDS / max(self._usual, 1e-6)), _MOST_PER_CHILD)
        self.ahead = self._children * self.each

    def held_up(self) -> None:
        """Claim nothing ahead for now: what waited did so in vain."""
        self._usual = None
        self.each = self.ahead = 0
