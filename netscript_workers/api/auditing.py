"""Recording who did what, and the route that tells."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping
from typing import Any

from fastapi import APIRouter, Request

from netscript_workers.api import examples
from netscript_workers.api.answers import Answer
from netscript_workers.api.document import answers
from netscript_workers.api.services import Cursor, Given, Limit
from netscript_workers.store import audit
from netscript_workers.store.audit import AuditPage, Deed
from netscript_workers.store.engine import Store

logger = logging.getLogger(__name__)

_NOTES = "netscript.notes"

routes = APIRouter(prefix="/api/v1/audit", tags=["audit"])


@routes.get("", responses=answers(AuditPage, examples.AUDIT))
def list_audit(given: Given, limit: Limit = 50, cursor: Cursor = None) -> Answer:
    """Tell who did what, newest first."""
    with given.store.read() as conn:
        return Answer(audit.list_audit(conn, limit=limit, cursor=cursor))


class Recorder:
    """Stores deeds, those that come together in one transaction."""

    def __init__(self, store: Store) -> None:
        """Record into `store`."""
        self._store = store
        self._waiting: list[tuple[Deed, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def record(self, deed: Deed) -> None:
        """Return once it is stored; where it can't be, the log has it."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((deed, done))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._store_all())
        await done

    async def _store_all(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting, []
            deeds = [deed for deed, _ in taken]
            try:
                await asyncio.to_thread(audit.record, self._store, deeds)
            except Exception as error:  # noqa: BLE001 - what was done is done
                logger.error("not in the audit (%s): %s", type(error).__name__, deeds)  # noqa: TRY400 - a driver's own words may hold values
            finally:
                for _, done in taken:
                    if not done.done():
                        done.set_result(None)


def note(request: Request, *, subject: str | None = None, reason: str | None = None) -> None:
    """Say what the path and the query of a request do not: what it is about, and why."""
    notes: dict[str, str] = request.scope.setdefault(_NOTES, {})
    given = {"subject": subject, "reason": reason}
    notes.update({name: text for name, text in given.items() if text})


def notes_of(scope: MutableMapping[str, Any]) -> dict[str, str]:
    """Return what a request's handler has noted."""
    found: dict[str, str] = scope.get(_NOTES, {})
    return found
