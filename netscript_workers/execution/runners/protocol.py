"""What a worker asks of whoever runs its executions."""

from __future__ import annotations

from typing import Protocol

from netscript_workers.domain import ClaimedExecution


class Runner(Protocol):
    """Runs executions. Its methods are called on the loop's thread."""

    @property
    def running(self) -> int:
        """How many executions run now."""
        ...

    @property
    def left(self) -> list[str]:
        """The ids of executions that run now."""
        ...

    @property
    def in_threads(self) -> list[str]:
        """The ids of executions whose handler runs in a thread, which nothing can end."""
        ...

    @property
    def pids(self) -> list[int]:
        """The numbers of its processes."""
        ...

    def start(self, claim: ClaimedExecution) -> None:
        """Run an execution."""
        ...

    def cancel(self, execution_id: str) -> None:
        """End an execution because somebody wants it."""
        ...

    def hand_back(self) -> None:
        """Let others have what was claimed and has not begun."""
        ...

    def drain(self) -> None:
        """End what can be ended; it is stored as not having had its turn."""
        ...

    def kill(self) -> None:
        """End at once what runs in processes, after a drain."""
        ...

    def drop_all(self) -> None:
        """End every attempt, whose end nobody wants to hear of, because others have it."""
        ...

    def drop(self, execution_id: str) -> None:
        """End such an attempt."""
        ...

    def close(self) -> None:
        """Let go of threads and processes."""
        ...

    async def wait_closed(self) -> None:
        """Wait until no process is left."""
        ...
