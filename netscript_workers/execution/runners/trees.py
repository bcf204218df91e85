"""Process trees: ending a process with all that it has started."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import defaultdict
from pathlib import Path

_PROC = Path("/proc")


def kill_tree(leader: int) -> None:
    """End a process group's leader, its group, and what its descendants have put elsewhere.

    The leader must not have been reaped, so that its number can mean nobody else.
    """
    # Looked up before, for when the leader is dead they are nobody's.
    strays = descendants(leader)
    signal_group(leader, signal.SIGKILL)
    for pid in strays:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def signal_group(leader: int, number: int) -> None:
    """Send a signal to a process group, if it still is there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def descendants(root: int) -> list[int]:
    """Return the numbers of all that a process has started, directly or not.

    A runner's child is the parent of its orphans, so that a daemon is found too. Empty where there
    is no /proc.
    """
    children: defaultdict[int, list[int]] = defaultdict(list)
    for pid, parent in _parents():
        children[parent].append(pid)
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _parents() -> list[tuple[int, int]]:
    try:
        numbers = [int(name) for name in os.listdir(_PROC) if name.isdigit()]  # noqa: PTH208 - names, not paths
    except OSError:
        return []
    pairs: list[tuple[int, int]] = []
    for pid in numbers:
        try:
            stat = (_PROC / str(pid) / "stat").read_bytes()
        except OSError:  # it has just ended
            continue
        # pid (name) state parent …, and the name may hold anything.
        pairs.append((pid, int(stat.rpartition(b")")[2].split()[1])))
    return pairs


def resident_bytes(pid: int) -> int:
    """Return how much memory a process holds now; zero where that can't be told."""
    try:
        pages = (_PROC / str(pid) / "statm").read_bytes().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
