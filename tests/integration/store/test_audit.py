"""The audit: what is kept of it, and for how long."""

from __future__ import annotations

import asyncio

import pytest

from netscript_workers.api.auditing import Recorder
from netscript_workers.store import audit
from netscript_workers.store.audit import Deed
from netscript_workers.store.engine import Store
from netscript_workers.store.retention import DAY, Retention, prune
from tests.kit import run, scalar


def actions(store: Store) -> list[str]:
    with store.read() as conn:
        return [one.action for one in audit.list_audit(conn, limit=200).entries]


def test_deeds_are_forgotten_as_late_as_failures(store: Store) -> None:
    audit.record(store, [Deed(who="ci", action="old"), Deed(who="ci", action="new")])
    with store.read() as conn:
        now = store.now(conn)
    millis = f"{(now - 91 * DAY) // 1000:012x}"
    old = f"{millis[:8]}-{millis[8:]}-7000-8000-000000000000"
    run(store, f"UPDATE netscript_audit SET id = '{old}' WHERE action = 'old'")
    assert prune(store, Retention(failed=92)) == 0
    assert actions(store) == ["new", "old"]
    assert prune(store, Retention()) == 1
    assert actions(store) == ["new"]


async def test_deeds_that_come_together_are_stored_together(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    record = audit.record

    def counting(where: Store, deeds: list[Deed]) -> None:
        sizes.append(len(deeds))
        record(where, deeds)

    monkeypatch.setattr(audit, "record", counting)
    recorder = Recorder(store)
    deeds = [Deed(who="local", action=f"a{number}") for number in range(50)]
    await asyncio.gather(*map(recorder.record, deeds))
    assert sum(sizes) == scalar(store, "SELECT count(*) FROM netscript_audit") == 50
    assert len(sizes) <= 2
    assert sorted(actions(store)) == sorted(deed.action for deed in deeds)


async def test_what_cannot_be_stored_is_in_the_log_and_ends_nothing(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    run(store, "ALTER TABLE netscript_audit RENAME TO netscript_audit_gone")
    recorder = Recorder(store)
    await recorder.record(Deed(who="ci", action="executions.cancel", subject="x"))
    assert "not in the audit" in caplog.text
    assert "executions.cancel" in caplog.text
    run(store, "ALTER TABLE netscript_audit_gone RENAME TO netscript_audit")
    await recorder.record(Deed(who="ci", action="again"))
    assert actions(store) == ["again"]
