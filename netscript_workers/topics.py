"""Topics: which of them a worker serves, and how its slots are shared among them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from netscript_workers.domain import ClaimedExecution
from netscript_workers.options import check_key

TopicMode: TypeAlias = Literal["combined", "distributed"]

MAX_CONCURRENCY = 10_000


def check_topic(name: str) -> str:
    """Refuse what no job can have as its topic.

    Raises:
        ConfigurationError: It is empty or too long, or can't be stored.
    """
    check_key(name, "name", "a topic")
    return name


def parse_topic(entry: str) -> tuple[str, int | None]:
    """Read `payments` or `payments:10`: a name and how many of it run at a time.

    Raises:
        ValueError: It is neither.
    """
    name, colon, number = entry.partition(":")
    name = check_topic(name.strip())
    if not colon:
        return name, None
    # Not everything that int() reads: `1_0` is a slip, not ten.
    count = int(number) if re.fullmatch("[0-9]{1,9}", number.strip()) else 0
    if not 1 <= count <= MAX_CONCURRENCY:
        msg = f"write NAME or NAME:CONCURRENCY (1 to {MAX_CONCURRENCY:,}), not {entry!r}"
        raise ValueError(msg)
    return name, count


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicRule:
    """What the configuration says of a topic.

    Attributes:
        concurrency: How many of its executions run at a time in one worker; None for no bound.
        mode: A `combined` topic shares the worker's slots. A `distributed` one is left alone by
            workers that don't name it, and has slots of its own in those that do.
        rate: How many of its executions start in a time, over all workers: `100/m`.
    """

    name: str
    concurrency: int | None = None
    mode: TopicMode = "combined"
    rate: str | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """Which topics a worker serves: `only` these or, if that is None, all; `but` those never."""

    only: tuple[str, ...] | None = None
    but: frozenset[str] = frozenset()

    def __contains__(self, topic: str) -> bool:
        """Tell whether a topic is one of them."""
        return topic not in self.but and (self.only is None or topic in self.only)

    @property
    def is_all(self) -> bool:
        """Whether there is none that it leaves alone."""
        return self.only is None and not self.but


@dataclass(slots=True)
class Places:
    """How many executions may be claimed now; what is taken counts at once.

    Attributes:
        shared: In all topics that share the worker's slots.
        most: The bounds of some of these.
        own: Of topics that have slots of their own.
    """

    shared: int
    most: dict[str, int] = field(default_factory=dict[str, int])
    own: dict[str, int] = field(default_factory=dict[str, int])

    def copy(self) -> Places:
        """Return the same, to be counted apart."""
        return Places(self.shared, dict(self.most), dict(self.own))

    def of(self, topic: str) -> int:
        """Return how many of a topic may be claimed."""
        if topic in self.own:
            return self.own[topic]
        return min(self.shared, self.most.get(topic, self.shared))

    def take(self, topic: str, count: int) -> None:
        """Count what was claimed."""
        if topic in self.own:
            self.own[topic] -= count
            return
        self.shared -= count
        if topic in self.most:
            self.most[topic] -= count

    @property
    def total(self) -> int:
        """How many may be claimed in all."""
        return max(self.shared, 0) + sum(max(free, 0) for free in self.own.values())

    @property
    def full(self) -> frozenset[str]:
        """The bounded topics without a place left."""
        return frozenset(name for name in (*self.most, *self.own) if self.of(name) <= 0)

    def narrow(self, served: Served) -> Served:
        """Return those of the topics that have a place left."""
        full = self.full
        if self.shared > 0:
            return Served(served.only, served.but | full)
        return Served(tuple(name for name in self.own if name not in full and name in served))


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many executions run at a time in a worker.

    Attributes:
        shared: In all topics that share the worker's slots.
        most: In each of these that is bounded.
        own: In each topic that has slots of its own.
    """

    shared: int
    most: Mapping[str, int] = field(default_factory=dict[str, int])
    own: Mapping[str, int] = field(default_factory=dict[str, int])

    def of(self, topic: str) -> int:
        """Return how many of a topic run at a time."""
        return self.own.get(topic, min(self.shared, self.most.get(topic, self.shared)))

    def left(self, running: int, used: Mapping[str, int]) -> Places:
        """Return what is left while so many run, so many of them of each bounded topic."""
        shared = self.shared - running + sum(used.get(name, 0) for name in self.own)
        return Places(shared, _left(self.most, used), _left(self.own, used))


def dump_topics(served: Served, bounds: Bounds | None = None) -> str | None:
    """Write them as the list of workers keeps them; None for all topics without bounds."""
    most, own = ({}, {}) if bounds is None else (dict(bounds.most), dict(bounds.own))
    if served.is_all and not (most or own):
        return None
    told = {"only": served.only, "but": sorted(served.but), "most": most, "own": own}
    return json.dumps(told)


def load_served(text: str | None) -> Served:
    """Read back which topics are served."""
    if text is None:
        return Served()
    told = json.loads(text)
    only = told["only"]
    return Served(None if only is None else tuple(only), frozenset(told["but"]))


def load_bounds(text: str | None, capacity: int) -> Bounds:
    """Read back the bounds of a worker that runs so many executions in all."""
    if text is None:
        return Bounds(capacity)
    told = json.loads(text)
    own: dict[str, int] = told["own"]
    return Bounds(capacity - sum(own.values()), told["most"], own)


class TopicPlan:
    """How one worker's slots are shared among topics."""

    def __init__(
        self, only: Sequence[str] | None, rules: Iterable[TopicRule], concurrency: int
    ) -> None:
        """Plan for a worker.

        Args:
            only: The topics that it was told to serve; None for all.
            rules: What the configuration says of topics.
            concurrency: Its slots.
        """
        known = {rule.name: rule for rule in rules}
        apart = {name for name, rule in known.items() if rule.mode == "distributed"}
        if only is None:
            self.served = Served(but=frozenset(apart))
        else:
            self.served = Served(only=tuple(only))
        mine = [rule for name, rule in known.items() if name in self.served]
        self.own: dict[str, int] = {
            rule.name: rule.concurrency or concurrency for rule in mine if rule.name in apart
        }
        self.most: dict[str, int] = {
            rule.name: rule.concurrency
            for rule in mine
            if rule.concurrency is not None and rule.name not in apart
        }
        # Who serves topics apart alone has no use for slots that are shared.
        shares = only is None or any(name not in apart for name in only)
        self.shared = concurrency if shares else 0

    @property
    def capacity(self) -> int:
        """How many executions run at a time in all."""
        return self.shared + sum(self.own.values())

    @property
    def bounds(self) -> Bounds:
        """How many executions run at a time, in each topic."""
        return Bounds(self.shared, self.most, self.own)

    @property
    def is_plain(self) -> bool:
        """Whether every topic may use every slot, so that nothing is to be counted."""
        return not (self.own or self.most)


class TopicSlots:
    """Counts what runs of topics that are bounded. Used by the tick's thread alone."""

    def __init__(self, plan: TopicPlan) -> None:
        """Count for a worker with this plan."""
        self._bounds = plan.bounds
        self._topics: dict[str, str] = {}

    def take(self, claims: Iterable[ClaimedExecution]) -> None:
        """Count executions that were claimed just now."""
        bounds = self._bounds
        for claim in claims:
            if claim.topic in bounds.own or claim.topic in bounds.most:
                self._topics[claim.id] = claim.topic

    def free(self, running: Collection[str]) -> Places:
        """Return what may be claimed now, while executions with these ids still run."""
        self._topics = {id_: topic for id_, topic in self._topics.items() if id_ in running}
        return self._bounds.left(len(running), Counter(self._topics.values()))


def _left(slots: Mapping[str, int], used: Mapping[str, int]) -> dict[str, int]:
    return {name: count - used.get(name, 0) for name, count in slots.items()}
