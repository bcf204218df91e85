"""A visit to one contestant: a fresh store, then whatever is to be measured on it, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

from benchmarks import processes, stores
from benchmarks.machine import Watch
from benchmarks.processes import ContestantError
from benchmarks.roster import Contestant
from benchmarks.table import Sample

# A worker that is measured while it waits has had this long to start.
_SETTLING_IN = 2.5


@dataclass(slots=True)
class Visit:
    """What a visit yields: samples, and what went wrong."""

    contestant: Contestant
    seconds: float
    sends: int
    samples: list[Sample] = field(default_factory=list[Sample])
    faults: list[str] = field(default_factory=list[str])
    _watch: Watch = field(init=False, default_factory=Watch)

    def run(self, wanted: AbstractSet[str]) -> None:
        """Measure what is wanted of `single`, `bulk`, `drain`, `latency`."""
        one = self.contestant
        with stores.fresh(one.store, one.name) as url:
            try:
                processes.run(one, url, "setup")
            except ContestantError as error:
                self.faults.append(f"{one.name}, setup: {error}")
                return
            left = 0
            if "single" in wanted and one.singles:
                count = round(one.singles * self.seconds / 2)
                told = self._measure("single", lambda: processes.run(one, url, "single", count))
                left += self._rate("single", told, count) + 1 if told else 0
            if wanted & {"bulk", "drain"}:
                count = round(one.rate * self.seconds)
                told = self._measure("bulk", lambda: processes.run(one, url, "fill", count))
                self._rate("bulk", told, left + count, n=count)
                left += count
            if "drain" in wanted:
                told = self._measure("drain", lambda: processes.run(one, url, "drain", left))
                if self._rate("drain", told, left):
                    self._add("drain-cpu", 1000 * told["cpu"] / told["n"])
            if "latency" in wanted:
                self._latency(url)

    def _measure(self, what: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        with self._watch:
            try:
                return measure()
            except ContestantError as error:
                self.faults.append(f"{self.contestant.name}, {what}: {error}")
                return {}

    def _rate(self, what: str, told: dict[str, Any], expected: int, n: int | None = None) -> int:
        """Note a rate, if the store says that the work was done; return how much was."""
        if not told:
            return 0
        if told["found"] < expected:
            fault = f"{told['found']} of {expected} are in the store"
            self.faults.append(f"{self.contestant.name}, {what}: {fault}")
            return 0
        count = n or told["n"]
        self._add(what, count / told["seconds"])
        return int(count)

    def _add(self, what: str, value: float) -> None:
        measure = f"{what} {stores.FAMILIES[self.contestant.store]}"
        name, watch = self.contestant.name, self._watch
        self.samples.append(Sample(name, measure, value, watch.steal, watch.load))

    def _latency(self, url: str) -> None:
        def measure() -> dict[str, Any]:
            one = self.contestant
            with processes.started(one, url, "receive", self.sends) as worker:
                time.sleep(_SETTLING_IN)
                took = processes.run(one, url, "send", self.sends)["took"]
                delays = dict(processes.finish(worker, 10)["delays"])
            return {"late": [delays[sent] / 1e6 for sent, _ in took]}

        told = self._measure("latency", measure)
        if told:
            late = quantiles(told["late"], n=100, method="inclusive")
            self._add("latency-p50", late[49])
            self._add("latency-p99", late[98])
