"""The check-up behind `netscript doctor`: everything that can be wrong, and what to do about it."""

from __future__ import annotations

import os
import platform
import resource
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from netscript_triggers.definitions import FileWatchDefinition, QueueDefinition, WebhookDefinition
from netscript_triggers.exposure import check_exposure
from netscript_triggers.registry import by_path, discover_triggers
from netscript_triggers.secrets import check_triggers, secrets_of
from netscript_triggers.sources import find_factory, place_of
from netscript_triggers.store import files, states
from netscript_triggers.store.arrears import MOST, Arrears, arrears
from netscript_triggers.watching.notices import fault_of
from netscript_triggers.watching.roots import is_left
from netscript_workers import __version__
from netscript_workers.clock import MICROSECONDS
from netscript_workers.errors import NetscriptError
from netscript_workers.registry import discover_jobs
from netscript_workers.settings import Settings
from netscript_workers.store import migrations, presence
from netscript_workers.store.engine import Store

Status: TypeAlias = Literal["ok", "warn", "fail"]

# A server's and a worker's own: the database, files, the listener.
_DESCRIPTORS = 128
# What a host's clock may be off; schedules go by the database's, signatures by the server's.
_CLOCK_SECONDS = 5.0
_KNOCK_SECONDS = 1.0
# Where brokers listen whose URL has no port.
_PORTS = {
    "redis": 6379,
    "rediss": 6379,
    "amqp": 5672,
    "amqps": 5671,
    "nats": 4222,
    "mqtt": 1883,
    "mqtts": 8883,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        status: `ok`; `warn` where it runs all the same; `fail` where it does not.
        what: What was looked at, in a word or two.
        detail: What was found, as a sentence.
        hint: What to do about it.
    """

    status: Status
    what: str
    detail: str
    hint: str | None = None


def checkup(project: Path) -> Iterator[Finding]:
    """Look at a project and yield what is found, one by one."""
    yield Finding("ok", "versions", f"Python {platform.python_version()}, netscript {__version__}.")
    try:
        settings = Settings.load(project)
    except NetscriptError as error:
        yield _failed("settings", error)
        return
    yield Finding("ok", "settings", f"Read for {settings.project_dir}.")
    yield from _definitions(settings)
    yield from _database(settings)
    yield _tokens(settings)
    yield _port(settings)
    yield _descriptors(settings)


def _failed(what: str, error: NetscriptError) -> Finding:
    return Finding("fail", what, error.message, error.hint)


def _definitions(settings: Settings) -> Iterator[Finding]:
    project = settings.project_dir
    try:
        jobs = discover_jobs(project, settings.jobs_dir)
    except NetscriptError as error:
        yield _failed("jobs", error)
    else:
        hint = "Write one: netscript add job send-receipt"
        yield _counted("jobs", len(jobs), settings.jobs_dir, hint)
    try:
        triggers = discover_triggers(project, settings.triggers_dir, dev=True)
    except NetscriptError as error:
        yield _failed("triggers", error)
        return
    hint = "Write one: netscript add webhook orders"
    yield _counted("triggers", len(triggers), settings.triggers_dir, hint)
    for webhook in by_path(triggers).values():
        yield _secret(webhook, settings.public_url)
    for trigger in triggers.values():
        if isinstance(trigger, FileWatchDefinition):
            yield from (_watched(trigger, path) for path in trigger.paths)
        elif isinstance(trigger, QueueDefinition):
            yield _broker(trigger)


def _counted(what: str, count: int, folder: str, hint: str) -> Finding:
    if count:
        return Finding("ok", what, f"{count} in {folder}/.")
    return Finding("warn", what, f"There are none in {folder}/.", hint)


def _secret(webhook: WebhookDefinition[Any], public_url: str) -> Finding:
    what = f'webhook "{webhook.id}"'
    if webhook.verifier.name == "memory":
        return Finding(
            "warn", what, "Its verifier accepts anything.", "Only --dev allows that; use another."
        )
    try:
        check_triggers([webhook], os.environ, public_url)
    except NetscriptError as error:
        return Finding("fail", what, error.message.removeprefix(f"{what}: "), error.hint)
    if callable(webhook.secret_env):
        return Finding("ok", what, f"{webhook.verifier.name}; each request chooses its secret.")
    if not webhook.verifier.needs_secret or secrets_of(webhook, os.environ):
        return Finding("ok", what, f"{webhook.verifier.name} at {webhook.path}.")
    names = " or ".join(webhook.secret_env) or "No variable for it"
    return Finding(
        "fail",
        what,
        f"{names} is not set: every delivery is refused.",
        "Set it to what the sender shows; if you choose it: netscript secrets new",
    )


def _broker(trigger: QueueDefinition[Any]) -> Finding:
    what = f'queue trigger "{trigger.id}"'
    url = os.environ.get(trigger.url_env, "")
    if not url:
        hint = "Set it to the broker's URL, in the environment or in .env."
        return Finding("fail", what, f"{trigger.url_env} is not set.", hint)
    try:
        find_factory(trigger.broker)
    except NetscriptError as error:
        return Finding("fail", what, error.message, error.hint)
    place = place_of(url)
    try:
        _knock(url)
    except (OSError, ValueError) as error:
        hint = f"See that it runs and may be reached, and that {trigger.url_env} is right."
        return Finding("fail", what, f"{place} can't be reached ({type(error).__name__}).", hint)
    return Finding("ok", what, f"{trigger.queue} of {place}.")


def _knock(url: str) -> None:
    """Connect, and no more: whoever is let in takes messages away from servers."""
    parts = urlsplit(url)
    if parts.hostname is None:
        raise ValueError(url)
    address = (parts.hostname, parts.port or _PORTS.get(parts.scheme, 0))
    socket.create_connection(address, _KNOCK_SECONDS).close()


def _watched(trigger: FileWatchDefinition[Any], path: str) -> Finding:
    what = f'file watch "{trigger.id}"'
    try:
        is_directory = stat.S_ISDIR(os.stat(path).st_mode)  # noqa: PTH116 - a path may be no UTF-8
    except (FileNotFoundError, NotADirectoryError):
        return Finding(
            "warn", what, f"{path!r} is not there; it is waited for.", "Make it, or mount it."
        )
    except OSError as error:
        hint = "Let the user that the server runs as read it, and the directories above it."
        return Finding("fail", what, f"{path!r} can't be looked at: {error.strerror}.", hint)
    if not is_directory:
        hint = "Name the directory that it is in, and a pattern."
        return Finding("fail", what, f"{path!r} is no directory.", hint)
    if not os.access(path, os.R_OK | os.X_OK):
        hint = "Let the user that the server runs as read it."
        return Finding("fail", what, f"{path!r} can't be read.", hint)
    fault = None
    if not trigger.polling:
        fault = fault_of(path, recursive=trigger.selection.recursive)
    if fault is None:
        patterns = ", ".join(trigger.selection.patterns.patterns)
        return Finding("ok", what, f"{patterns} in {path!r}.")
    return Finding(
        "warn",
        what,
        f"There are no notices for {path!r} ({fault}): it is looked at every "
        f"{trigger.poll_interval:g} s.",
        "Allow more: sysctl fs.inotify.max_user_watches=1048576 "
        "fs.inotify.max_user_instances=1024; or watch with polling=True.",
    )


def _database(settings: Settings) -> Iterator[Finding]:
    try:
        store = Store(settings.url, pool_size=1)
    except NetscriptError as error:
        yield _failed("database", error)
        return
    try:
        migrations.check(store)
        yield Finding("ok", "database", f"{store.url} is at revision {migrations.head()}.")
        yield from _inside(store)
    except NetscriptError as error:
        yield _failed("database", error)
    except SQLAlchemyError as error:
        cause = type(getattr(error, "orig", None) or error).__name__
        yield Finding("fail", "database", f"It does not answer ({cause}).", "See that it runs.")
    finally:
        store.dispose()


def _inside(store: Store) -> Iterator[Finding]:
    with store.read() as conn:
        now = store.now(conn)
        yield _clock(now)
        yield _workers(conn, now)
        yield from _undone(arrears(conn, now))
        for trigger_id, state in sorted(states.read(conn).items()):
            if state.is_open:
                yield Finding(
                    "warn",
                    f'trigger "{trigger_id}"',
                    "Its handler kept failing; its events wait.",
                    f"See why: netscript triggers show {trigger_id}",
                )
        for trigger_id, roots in files.read_all_roots(conn).items():
            yield from (
                Finding(
                    "warn",
                    f'file watch "{trigger_id}"',
                    f"{root!r} is empty, and not the directory that it was.",
                    "See that it is mounted; until then its files don't count as deleted.",
                )
                for root, inode in roots.items()
                if is_left(root, inode)
            )


def _clock(now: int) -> Finding:
    off = abs(time.time() - now / MICROSECONDS)
    if off < _CLOCK_SECONDS:
        return Finding("ok", "clock", "It agrees with the database's.")
    return Finding(
        "warn",
        "clock",
        f"It is {off:.0f} s away from the database's.",
        "Signed times and schedules go by it: have it set by NTP.",
    )


def _workers(conn: Connection, now: int) -> Finding:
    alive, stalled = presence.live_workers(conn, now)
    if not alive:
        return Finding("warn", "workers", "None is alive.", "Start one: netscript worker")
    if stalled:
        return Finding(
            "warn",
            "workers",
            f"{len(stalled)} of {alive} make no progress: {', '.join(stalled[:3])}.",
            "See their logs: netscript workers list",
        )
    return Finding("ok", "workers", f"{alive} alive.")


def _undone(left: Arrears) -> Iterator[Finding]:
    for what, count, told, hint in (
        (
            "leases",
            left.lost,
            "executions are held by workers whose lease has run out.",
            "A living worker rescues them within seconds: netscript worker",
        ),
        (
            "dead events",
            left.dead_events,
            "events wait for somebody to replay them.",
            "See why: netscript events list --status dead",
        ),
        (
            "dead letters",
            left.dead_letters,
            "executions have failed for good.",
            "See why: netscript executions list --status failed",
        ),
    ):
        if count:
            number = f"{count:,}" if count < MOST else f"{MOST:,} or more"
            yield Finding("warn", what, f"{number} {told}", hint)


def _tokens(settings: Settings) -> Finding:
    if settings.api_tokens:
        told = ", ".join(f"{token.name} ({token.role})" for token in settings.api_tokens)
        return Finding("ok", "tokens", f"{told}.")
    try:
        check_exposure(settings)
    except NetscriptError as error:
        return _failed("tokens", error)
    return Finding("ok", "tokens", "There are none: only this machine reaches the API.")


def _port(settings: Settings) -> Finding:
    where = f"{settings.host}:{settings.port}"
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(_KNOCK_SECONDS)
        if settings.port == 0 or probe.connect_ex((settings.host, settings.port)):
            return Finding("ok", "port", f"{where} is free.")
    if _is_netscript(settings):
        return Finding("ok", "port", f"netscript answers at {where}.")
    return Finding(
        "warn", "port", f"Something else listens at {where}.", "Choose another: NETSCRIPT_PORT"
    )


def _is_netscript(settings: Settings) -> bool:
    import httpx  # noqa: PLC0415 - only where somebody listens

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        answer = httpx.get(
            f"http://{host}:{settings.port}/health", trust_env=False, timeout=_KNOCK_SECONDS
        )
        return bool(answer.json().get("status") == "ok")
    except (httpx.HTTPError, ValueError, AttributeError):
        return False


def _descriptors(settings: Settings) -> Finding:
    has, _most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections + _DESCRIPTORS
    if has >= wanted:
        return Finding("ok", "open files", f"{has:,} are allowed.")
    return Finding(
        "warn",
        "open files",
        f"{has:,} are allowed, so fewer than {settings.max_connections:,} connections are taken.",
        f"Allow {wanted:,}: ulimit -n {wanted}",
    )
