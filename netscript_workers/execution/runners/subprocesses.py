"""The runner `subprocess`: a fresh interpreter for each execution."""

from __future__ import annotations

from netscript_workers.domain import ClaimedExecution, Death
from netscript_workers.execution.outcome import not_started
from netscript_workers.execution.runners.children import Child
from netscript_workers.execution.runners.processes import Attempt, ProcessRunner


class SubprocessRunner(ProcessRunner):
    """Runs each execution in an interpreter in which nothing has run before.

    The execution has ended when its process has.
    """

    def start(self, claim: ClaimedExecution) -> None:
        """Run an execution, once its interpreter has started."""
        attempt = Attempt(claim)
        self._attempts[claim.id] = attempt
        child = self._bear()
        if child is None:
            self._finish(attempt, not_started(claim, "No process is to be had."))
        else:
            child.meant_for = claim.id

    def _ready(self, child: Child) -> None:
        attempt = self._attempts.get(child.meant_for)
        if attempt is None:
            child.kill()
        else:
            self._give(attempt, child)

    def _done(self, attempt: Attempt, child: Child) -> None:
        self._retire(child)

    def _free(self, child: Child) -> None:
        self._retire(child)

    def _recall(self, child: Child | None) -> None:
        """Take nothing back: a child has one execution, and is for no other."""

    def _heard_recall(self, child: Child) -> None:
        """Do nothing: nothing was taken back."""

    def _gone(self, child: Child, death: Death) -> None:
        attempt = self._attempts.get(child.meant_for)
        if attempt is not None and attempt.child is None:
            self._finish(attempt, not_started(attempt.claim, f"No process starts: {death}."))

    def _abandon(self, attempt: Attempt) -> None:
        super()._abandon(attempt)
        for child in self._children:
            if child.meant_for == attempt.claim.id:
                child.kill()
