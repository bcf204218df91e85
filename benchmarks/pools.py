"""Runners with processes: how many no-ops a second, and how much memory for each slot."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import processes, stores
from benchmarks.machine import Watch
from benchmarks.processes import ContestantError
from benchmarks.roster import POOLS, Contestant
from benchmarks.stores import Kind
from benchmarks.table import Sample

_LEAST = 20


@dataclass(slots=True)
class Pools:
    """Every contestant with so many slots, one after the other.

    Attributes:
        seconds: Seconds' worth of executions for each to run.
        slots: How many processes.
    """

    seconds: float
    slots: Sequence[int]
    samples: list[Sample] = field(default_factory=list[Sample])
    faults: list[str] = field(default_factory=list[str])

    def round(self, without: Collection[Kind], absent: Collection[str], *, short: bool) -> None:
        """Have each take its turn, but those whose store or module is not there."""
        for slots in self.slots:
            for one in POOLS:
                if one.store in without or one.module in absent or (short and not one.short):
                    continue
                try:
                    self._visit(one, slots)
                except ContestantError as error:
                    self.faults.append(f"{one.name}, {slots} slots: {error}")

    def _visit(self, one: Contestant, slots: int) -> None:
        count = max(round(one.rate * self.seconds), _LEAST)
        with tempfile.NamedTemporaryFile() as record, stores.fresh(one.store, "pools") as url:
            more = {"BENCH_SLOTS": str(slots), "BENCH_RAN": record.name}
            one = replace(one, settings={**one.settings, **more})
            processes.run(one, url, "setup")
            processes.run(one, url, "fill", count)
            with Watch() as watch:
                told = processes.run(one, url, "pool", count)
            ran = Path(record.name).stat().st_size
        if told.get("found", 0) < count or ran < count:
            raise ContestantError(f"{ran} of {count} have run")
        for what, value in (
            ("runners", told["n"] / told["seconds"]),
            ("runners-memory", told["memory"]),
        ):
            sample = Sample(one.name, f"{what} {slots}", value, watch.steal, watch.load)
            self.samples.append(sample)
