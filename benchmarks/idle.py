"""What a worker costs that has nothing to do."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass, field

from benchmarks import processes, stores
from benchmarks.machine import Watch, cpu_seconds, resident_mib
from benchmarks.roster import OURS_PG, OURS_SQLITE
from benchmarks.stores import FAMILIES, ROOT, Kind
from benchmarks.table import Sample

_SETTLING_IN = 4.0
_PROJECT = ROOT / "benchmarks" / "project"


@dataclass(slots=True)
class Idleness:
    """One worker on each database, watched side by side."""

    seconds: float
    samples: list[Sample] = field(default_factory=list[Sample])
    faults: list[str] = field(default_factory=list[str])

    def run(self, without: set[Kind]) -> None:
        """Watch them, as the command starts them."""
        kinds: dict[Kind, str] = {"sqlite": OURS_SQLITE, "postgres": OURS_PG}
        with contextlib.ExitStack() as stack:
            pids: dict[Kind, int] = {}
            urls: dict[Kind, str] = {}
            for kind in kinds:
                if kind in without:
                    continue
                url = urls[kind] = stack.enter_context(stores.fresh(kind, f"idle-{kind}"))
                environ = processes.environment(url, NETSCRIPT_DATABASE_URL=url)
                line = [sys.executable, "-m", "benchmarks.contestants.ours", "setup"]
                with processes.program(line, environ) as setup:
                    processes.finish(setup)
                line = [sys.executable, "-m", "netscript_triggers", "worker"]
                line += ["--project", str(_PROJECT), "--log-level", "warning"]
                pids[kind] = stack.enter_context(processes.program(line, environ)).pid
            time.sleep(_SETTLING_IN)
            # The database counts what a connection did once it has been idle for a moment.
            seen = stores.transactions(urls["postgres"]) if "postgres" in urls else 0
            before = {kind: cpu_seconds(pid) for kind, pid in pids.items()}
            with Watch() as watch:
                time.sleep(self.seconds)
            for kind, pid in pids.items():
                percent = 100 * (cpu_seconds(pid) - before[kind]) / self.seconds
                values = {"idle-cpu": percent, "idle-memory": resident_mib(pid)}
                if kind == "postgres":
                    count = stores.transactions(urls[kind]) - seen
                    values["idle-transactions"] = count / self.seconds
                for what, value in values.items():
                    measure = f"{what} {FAMILIES[kind]}"
                    self.samples.append(
                        Sample(kinds[kind], measure, value, watch.steal, watch.load)
                    )
