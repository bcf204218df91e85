"""The one command: `python -m benchmarks` runs the contestants in turn and prints the table."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import environments, stores
from benchmarks.accept import Acceptance
from benchmarks.idle import Idleness
from benchmarks.lines import GROUPS, VISITS
from benchmarks.pools import Pools
from benchmarks.roster import CONTESTANTS, POOL_PEERS, Contestant
from benchmarks.stores import ROOT, Kind
from benchmarks.table import Sample, details, judge, render
from benchmarks.visit import Visit

CLAIM = "claim"
NAMES = (*GROUPS, CLAIM)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How much is run.

    Attributes:
        rounds: How often each contender takes its turn.
        accept_rounds: The same for the servers.
        work: Seconds' worth of executions for each contestant to drain.
        sends: Executions enqueued one by one to a waiting worker.
        load: Seconds of webhooks.
        idle: Seconds in which an idle worker is watched.
        pools: Seconds' worth of executions for each runner with processes.
        slots: How many processes these have, in turn.
    """

    rounds: int
    accept_rounds: int
    work: float
    sends: int
    load: float
    idle: float
    pools: float
    slots: tuple[int, ...]


SHORT = Plan(2, 2, work=0.7, sends=50, load=2.0, idle=10.0, pools=1.0, slots=(2,))
FULL = Plan(5, 5, work=3.0, sends=200, load=8.0, idle=60.0, pools=4.0, slots=(2, 8))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; the exit code tells whether everything could be measured."""
    options = _options(arguments)
    plan = SHORT if options.short else FULL
    if options.repeat:
        plan = dataclasses.replace(plan, rounds=options.repeat, accept_rounds=options.repeat)
    run = _Run(plan, options.only or set(NAMES), options.contestants, short=options.short)
    began = time.monotonic()
    run.all()
    print(run.report())
    print(f"\n{time.monotonic() - began:.0f} s")
    if options.json:
        facts = [dataclasses.asdict(sample) for sample in run.samples]
        written = {"samples": facts, "faults": run.faults}
        Path(options.json).write_text(json.dumps(written, indent=1), encoding="utf-8")
    return 1 if run.faults else 0


def _names(known: Sequence[str]) -> type[set[str]]:
    class Names(set[str]):
        def __init__(self, text: str) -> None:
            super().__init__(part.strip() for part in text.split(","))
            if unknown := self - set(known):
                told = f"{', '.join(sorted(unknown))}; known are {', '.join(known)}"
                raise argparse.ArgumentTypeError(told)

    return Names


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    everybody = [one.name for one in CONTESTANTS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--short", action="store_true", help="less of everything: under 3 minutes")
    parser.add_argument("--only", type=_names(NAMES), help=f"a,b of {', '.join(NAMES)}")
    parser.add_argument(
        "--contestants", type=_names(everybody), help=f"a,b of {', '.join(everybody)}"
    )
    parser.add_argument("--repeat", type=int, help="rounds")
    parser.add_argument("--json", help="a file for every sample")
    return parser.parse_args(arguments)


class _Run:
    def __init__(
        self, plan: Plan, wanted: set[str], names: set[str] | None, *, short: bool
    ) -> None:
        self.samples: list[Sample] = []
        self.faults: list[str] = []
        self._plan, self._wanted, self._short = plan, wanted, short
        self._notes: list[str] = []
        self._without = self._look_for_servers()
        taking_part = [
            one
            for one in CONTESTANTS
            if (one.name in names if names else one.short or not short)
            and one.store not in self._without
        ]
        visits = wanted & set(VISITS)
        modules = {one.module for one in taking_part if visits and one.module in environments.PEERS}
        if "runners" in wanted:
            modules |= {one.module for one in POOL_PEERS}
        failed = environments.install(sorted(modules))
        self.faults += [f"{name}: {why}" for name, why in failed.items()]
        self._absent = set(failed)
        self._contestants = [one for one in taking_part if one.module not in failed]
        self._versions = [environments.version(name) for name in sorted(modules - set(failed))]

    def _look_for_servers(self) -> set[Kind]:
        missing = stores.missing()
        for kind, why in missing.items():
            self._notes.append(f"NOT MEASURED, no {kind}: {why}")
            print(self._notes[-1], file=sys.stderr)
        return set(missing)

    def all(self) -> None:
        if "accept" in self._wanted:
            self._accept()
        if "idle" in self._wanted:
            _say("idle workers")
            idleness = Idleness(self._plan.idle)
            idleness.run(self._without)
            self._take(idleness)
        if "runners" in self._wanted:
            pools = Pools(self._plan.pools, self._plan.slots)
            for number in range(1 if self._short else self._plan.rounds):
                _say(f"runners, round {number + 1}")
                pools.round(self._without, self._absent, short=self._short)
            self._take(pools)
        if visits := self._wanted & set(VISITS):
            for number in range(self._plan.rounds):
                self._visit_all(visits, number)
        if CLAIM in self._wanted:
            self._claim_latency()

    def _accept(self) -> None:
        acceptance = Acceptance(self._plan.load)
        for number in range(self._plan.accept_rounds):
            _say(f"accept, round {number + 1}")
            acceptance.round(self._without)
        self._take(acceptance)
        if acceptance.generator_cpu:
            most = 100 * max(acceptance.generator_cpu)
            self._notes.append(f"the load generator used at most {most:.0f} % of a core")

    def _visit_all(self, visits: set[str], number: int) -> None:
        for one in self._contestants:
            if number and self._short and not one.contender:
                continue
            _say(f"{one.name}, round {number + 1}")
            visit = Visit(one, self._plan.work, self._plan.sends)
            visit.run(self._fitting(one, visits))
            self._take(visit)

    def _fitting(self, one: Contestant, visits: set[str]) -> set[str]:
        """The bar for latency is a time, not a peer: the short mode asks us alone."""
        others = visits if one.module == "ours" or not self._short else visits - {"latency"}
        return others - {"single", "bulk"} if one.store == "redis" else others

    def _take(self, part: Acceptance | Idleness | Pools | Visit) -> None:
        self.samples += part.samples
        self.faults += part.faults
        for fault in part.faults:
            print(f"FAULT {fault}", file=sys.stderr)

    def _claim_latency(self) -> None:
        if importlib.util.find_spec("benchmarks.claim_latency") is None:
            self._notes.append("claim latency: benchmarks/claim_latency.py is not here")
            return
        _say("claim latency")
        line = [sys.executable, "-m", "benchmarks.claim_latency"]
        line += ["--quick"] if self._short else []
        done = subprocess.run(line, check=False, capture_output=True, text=True, cwd=ROOT)
        self._notes.append(f"claim latency\n{done.stdout.rstrip()}")
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:]
            self.faults.append(f"claim latency: exit code {done.returncode} {last}")

    def report(self) -> str:
        lines = [line for name, group in GROUPS.items() if name in self._wanted for line in group]
        parts = [_machine()]
        if self._versions:
            parts.append("peers: " + ", ".join(self._versions))
        if lines:
            parts.append(render([judge(line, self.samples) for line in lines]))
        shown: set[str] = set()
        for line in lines:
            measures = line.measure
            if measures not in shown and any(
                s.measure in measures.split("|") for s in self.samples
            ):
                parts.append(details(measures, line.unit, self.samples, line.bar.better))
            shown.add(measures)
        parts += self._notes
        parts += [f"FAULT {fault}" for fault in self.faults]
        return "\n\n".join(parts)


def _machine() -> str:
    load = ", ".join(f"{one:.2f}" for one in os.getloadavg())
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, load average {load}"


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
