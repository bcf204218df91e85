"""What the machine does while something is measured: stolen time, load, a process's use of it."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

_TICKS = os.sysconf("SC_CLK_TCK")


class Watch:
    """Measures stolen time over a block."""

    steal = 0.0
    load = 0.0

    def __enter__(self) -> Self:
        self._before = _times()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        spent = [after - before for before, after in zip(self._before, _times(), strict=True)]
        self.steal = 100 * spent[7] / max(1, sum(spent[:8]))
        self.load = os.getloadavg()[0]


def _times() -> list[int]:
    """Return the machine's ticks: user, nice, system, idle, iowait, irq, softirq, steal, ..."""
    first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    return [int(part) for part in first.split()[1:]]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, in ticks of usually 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_mib(pid: int) -> float:
    """Return the memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0
