"""The instants of schedule triggers: which are to come, what became of those that came."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from typing import TypeAlias

from sqlalchemy import Connection

from netscript_triggers.definitions import ScheduleDefinition
from netscript_triggers.records import InstantRecord, PreviewRecord, TriggerRecord
from netscript_triggers.schedules import schedule_id, scheduled_time
from netscript_workers.errors import StateError
from netscript_workers.instants import Instant
from netscript_workers.schedules import Schedule, is_instant
from netscript_workers.store import fires, schedules

_Timing: TypeAlias = tuple[Schedule, datetime]

_RECENT = 10


def preview(conn: Connection, record: TriggerRecord, count: int, now: datetime) -> PreviewRecord:
    """Return the next instants of a schedule, and what became of the last ones.

    Args:
        conn: A connection.
        record: The schedule, as it is registered.
        count: How many instants to come.
        now: The present.

    Raises:
        StateError: The trigger is no schedule.
    """
    schedule, anchor = _timing(conn, record, now)
    upcoming = islice(schedule.instants(anchor).after(now), count)
    return PreviewRecord(
        trigger_id=record.id,
        words=schedule.words(),
        timezone=schedule.timezone,
        next=tuple(_shown(one, schedule) for one in upcoming),
        recent=tuple(
            _shown(Instant(one.at, one.note), schedule, one.outcome, one.ref)
            for one in fires.recent(conn, schedule_id(record.id), _RECENT)
        ),
    )


def find_instant(
    conn: Connection, record: TriggerRecord, at: datetime, now: datetime
) -> tuple[datetime, str | None]:
    """Return an instant of a schedule in UTC, and its event if it has fired.

    Raises:
        StateError: It is no instant of it, or has not come yet.
    """
    schedule, anchor = _timing(conn, record, now)
    hint = f"See which there are: netscript triggers preview {record.id}"
    try:
        instant = at.astimezone(UTC)
        known = is_instant(schedule, anchor, instant)
    except OverflowError:  # the first or the last day of all
        instant, known = at, False
    told = f"{instant:%Y-%m-%dT%H:%M:%S.%f}".rstrip("0").rstrip(".") + "Z"
    if instant > now:
        raise StateError(f"{told} has not come yet.", hint=hint)
    if not known:
        raise StateError(f'{told} is no instant of schedule "{record.id}".', hint=hint)
    return instant, fires.event_of(conn, schedule_id(record.id), instant)


def _timing(conn: Connection, record: TriggerRecord, now: datetime) -> _Timing:
    if record.kind != ScheduleDefinition.kind:
        raise StateError(
            f'Trigger "{record.id}" is a {record.kind}, which no clock fires.',
            hint="Only schedules have instants.",
        )
    known = schedules.get_schedule(conn, schedule_id(record.id))
    if known is not None:
        return known.schedule, known.anchor
    return Schedule.from_told(record.definition), now


def _shown(
    instant: Instant, schedule: Schedule, outcome: str | None = None, event_id: str | None = None
) -> InstantRecord:
    told = scheduled_time(instant.at, schedule.timezone, instant.note)
    return InstantRecord(
        scheduled_for=instant.at,
        local_time=told["local_time"],
        note=instant.note,
        outcome=outcome,
        event_id=event_id,
    )
