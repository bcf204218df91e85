"""What a check of the promises found: a code for programs, a sentence for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from netscript_workers.clock import MICROSECONDS
from netscript_workers.store.idempotency import DEFAULT_WINDOW
from netscript_workers.store.retention import DAY, Retention

CHUNK = 1000
# More of one kind say nothing new; they are counted all the same.
_KEPT_OF_A_KIND = 100
# What repairs itself (a rescue, a sweep, a look for due work) has had its time after this.
GRACE = 60 * MICROSECONDS
# Two processes' ideas of the database's clock differ by what a busy machine makes of a round trip.
CLOCK_ERROR = MICROSECONDS // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One broken promise.

    Attributes:
        code: Which one; docs/verify.md lists them.
        subject: The id of the execution or event, or the key, that it is about.
        detail: What is wrong, as a sentence.
    """

    code: str
    subject: str
    detail: str


@dataclass(slots=True)
class Report:
    """What was looked at, and what was found.

    Attributes:
        findings: The first hundred of each code.
        counts: How many there are of each code.
        checked: How many rows of each table were looked at.
        pruned: References to what is older than retention, and so may be gone.
    """

    findings: list[Finding] = field(default_factory=list[Finding])
    counts: Counter[str] = field(default_factory=Counter[str])
    checked: Counter[str] = field(default_factory=Counter[str])
    pruned: int = 0

    def add(self, code: str, subject: object, detail: str) -> None:
        """Note a finding."""
        self.counts[code] += 1
        if self.counts[code] <= _KEPT_OF_A_KIND:
            self.findings.append(Finding(code=code, subject=str(subject), detail=detail))

    def __str__(self) -> str:
        """Tell all of it, for a test that fails."""
        told = [f"{one.code} {one.subject}: {one.detail}" for one in self.findings]
        return "\n".join([*told, f"found {dict(self.counts)}, checked {dict(self.checked)}"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a database is held to.

    Attributes:
        retention: What is older may be gone.
        window: How long an idempotency key is kept, in microseconds.
        grace: How long that which repairs itself may take, in microseconds.
    """

    retention: Retention = field(default_factory=Retention)
    window: int = DEFAULT_WINDOW
    grace: int = GRACE

    def may_be_pruned(self, id_: str, now: int) -> bool:
        """Tell whether what has this id may be gone; ids begin with the time they were made."""
        days = min(self.retention.completed, self.retention.failed)
        return made_at(id_) < now - round(days * DAY)

    def key_is_due(self, created_at: int, now: int) -> bool:
        """Tell whether the idempotency key of what was stored then must still be there."""
        # `enqueue` in a user's transaction knows no setting, and keeps keys for the usual window.
        window = min(self.window, DEFAULT_WINDOW)
        return created_at + window > now + GRACE


def made_at(id_: str) -> int:
    """Return when an id was made, in microseconds since the epoch."""
    return int(id_.replace("-", "")[:12], 16) * 1000


def seconds(micros: int) -> str:
    """Write a duration for people."""
    return f"{micros / MICROSECONDS:.1f} s"


def named(ids: Iterable[object]) -> str:
    """Write a few ids for people."""
    return ", ".join(sorted(str(id_) for id_ in ids)[:5])
