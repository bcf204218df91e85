"""The audit: who did what, to what, when, why and from where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, insert, text

from netscript_workers.clock import from_micros
from netscript_workers.errors import CursorError
from netscript_workers.ids import is_id, new_id
from netscript_workers.records import AuditRecord
from netscript_workers.store.engine import Store
from netscript_workers.store.schema import audit

MAX_TEXT = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """Something that somebody did.

    Attributes:
        who: The name of a token, or `local`; of a command, who was logged in.
        action: Such as `executions.cancel`.
        subject: What it was done to: an id, or which ones were meant.
        reason: Why, in their own words.
        address: From where.
    """

    who: str
    action: str
    subject: str | None = None
    reason: str | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Some deeds, newest first, and the cursor of the next page if there is one."""

    entries: tuple[AuditRecord, ...]
    next_cursor: str | None


def as_text(given: str) -> str:
    """Return what can be stored and shown of a text."""
    shown = "".join(char if char.isprintable() else " " for char in given[:MAX_TEXT])
    return shown.strip()


def record(store: Store, deeds: Sequence[Deed]) -> None:
    """Store what was done."""
    with store.begin() as conn:
        now = store.now(conn)
        rows = [
            {
                "id": new_id(),
                "at": now,
                "who": deed.who,
                "action": deed.action,
                "subject": deed.subject,
                "reason": deed.reason,
                "address": deed.address,
            }
            for deed in deeds
        ]
        conn.execute(insert(audit), rows)


def list_audit(conn: Connection, *, limit: int, cursor: str | None = None) -> AuditPage:
    """Return a page of what was done, newest first.

    Args:
        conn: Where to read.
        limit: How many at most.
        cursor: The `next_cursor` of the page before.

    Raises:
        CursorError: The cursor is none of ours.
    """
    if cursor is not None and not is_id(cursor):
        raise CursorError
    rows = conn.execute(_FIRST if cursor is None else _NEXT, {"cursor": cursor, "more": limit + 1})
    found = tuple(
        AuditRecord(
            id=str(row.id),
            at=from_micros(row.at),
            who=row.who,
            action=row.action,
            subject=row.subject,
            reason=row.reason,
            address=row.address,
        )
        for row in rows
    )
    return AuditPage(found[:limit], found[limit - 1].id if len(found) > limit else None)


def prune(conn: Connection, *, below: str, limit: int) -> int:
    """Forget so many of the deeds whose ids are smaller; return how many there were."""
    return conn.execute(_PRUNE, {"below": below, "limit": limit}).rowcount


_COLUMNS = "SELECT id, at, who, action, subject, reason, address FROM netscript_audit"
_FIRST = text(f"{_COLUMNS} ORDER BY id DESC LIMIT :more")
_NEXT = text(f"{_COLUMNS} WHERE id < :cursor ORDER BY id DESC LIMIT :more")
_PRUNE = text(
    "DELETE FROM netscript_audit WHERE id IN "
    "(SELECT id FROM netscript_audit WHERE id < :below ORDER BY id LIMIT :limit)"
)
