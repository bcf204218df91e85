"""Who may use which route: the one table of them all. What is not in it is not served."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import fastapi.routing
from starlette.routing import BaseRoute

from netscript_workers.errors import ConfigurationError
from netscript_workers.tokens import Role

_WORKERS = "/api/v1/workers"
_PARAMETER = re.compile(r"\{([a-z_]+)(:path)?\}")
# What FastAPI answers by itself where it has a GET.
_IMPLIED = frozenset({"HEAD"})

Method: TypeAlias = str


@dataclass(frozen=True, slots=True)
class Access:
    """What a route asks for.

    Attributes:
        role: What its callers need; None where anybody may call it.
        action: What it is in the audit; None for what changes nothing.
        reason_in_query: Whether the query parameter `reason` says why; elsewhere it is a filter.
    """

    role: Role | None
    action: str | None = None
    reason_in_query: bool = True


_OPEN = Access(None)
_READ = Access(Role.READ)


def _operate(action: str, *, reason_in_query: bool = True) -> Access:
    return Access(Role.OPERATE, action, reason_in_query)


ROUTES: Mapping[tuple[Method, str], Access] = {
    # Machines that look after the process have no tokens, and learn nothing but that it lives.
    ("GET", "/health"): _OPEN,
    ("GET", "/health/ready"): _OPEN,
    ("GET", "/login"): _OPEN,
    ("POST", "/login"): _OPEN,
    ("POST", "/logout"): _READ,
    ("GET", "/"): _READ,
    ("GET", "/metrics"): _READ,
    ("GET", "/api/openapi.json"): _READ,
    ("GET", "/api/v1/audit"): Access(Role.ADMIN),
    ("POST", f"{_WORKERS}/seed"): Access(Role.ADMIN, "definitions.seed"),
    ("GET", f"{_WORKERS}/jobs"): _READ,
    ("GET", f"{_WORKERS}/jobs/{{job_id}}"): _READ,
    ("POST", f"{_WORKERS}/jobs/{{job_id}}/trigger"): _operate("jobs.trigger"),
    ("GET", f"{_WORKERS}/tasks"): _READ,
    ("GET", f"{_WORKERS}/tasks/{{task_id}}"): _READ,
    ("POST", f"{_WORKERS}/tasks/{{task_id}}/trigger"): _operate("tasks.trigger"),
    ("GET", f"{_WORKERS}/subscribe"): _READ,
    ("GET", f"{_WORKERS}/executions"): _READ,
    ("POST", f"{_WORKERS}/executions/retry"): _operate(
        "executions.retry-many", reason_in_query=False
    ),
    ("POST", f"{_WORKERS}/executions/cancel"): _operate(
        "executions.cancel-many", reason_in_query=False
    ),
    ("GET", f"{_WORKERS}/executions/{{execution_id}}"): _READ,
    ("GET", f"{_WORKERS}/executions/{{execution_id}}/explain"): _READ,
    ("POST", f"{_WORKERS}/executions/{{execution_id}}/retry"): _operate("executions.retry"),
    ("POST", f"{_WORKERS}/executions/{{execution_id}}/cancel"): _operate("executions.cancel"),
    ("POST", f"{_WORKERS}/executions/{{execution_id}}/discard"): _operate("executions.discard"),
    ("GET", f"{_WORKERS}/topics"): _READ,
    ("POST", f"{_WORKERS}/topics/{{topic:path}}/pause"): _operate("topics.pause"),
    ("POST", f"{_WORKERS}/topics/{{topic:path}}/resume"): _operate("topics.resume"),
    ("POST", f"{_WORKERS}/topics/{{topic:path}}/limit"): _operate("topics.limit"),
    ("GET", f"{_WORKERS}/workers"): _READ,
    ("GET", f"{_WORKERS}/workers/{{worker_id}}"): _READ,
    ("POST", f"{_WORKERS}/workers/{{worker_id}}/drain"): _operate("workers.drain"),
    ("GET", "/api/v1/triggers"): _READ,
    ("GET", "/api/v1/triggers/{trigger_id}"): _READ,
    ("GET", "/api/v1/triggers/{trigger_id}/preview"): _READ,
    ("POST", "/api/v1/triggers/{trigger_id}/enable"): _operate("triggers.enable"),
    ("POST", "/api/v1/triggers/{trigger_id}/disable"): _operate("triggers.disable"),
    ("POST", "/api/v1/triggers/{trigger_id}/fire"): _operate("triggers.fire"),
    ("GET", "/api/v1/events"): _READ,
    ("POST", "/api/v1/events/replay"): _operate("events.replay-many"),
    ("GET", "/api/v1/events/{event_id}"): _READ,
    ("POST", "/api/v1/events/{event_id}/replay"): _operate("events.replay"),
}


@dataclass(frozen=True, slots=True)
class Found:
    """What the table says of a request.

    Attributes:
        access: What it asks for; None where there is no such route.
        subject: What the path names.
        allowed: The methods that there are for this path.
    """

    access: Access | None
    subject: str | None = None
    allowed: tuple[Method, ...] = ()


class AccessTable:
    """Finds what a request asks for."""

    def __init__(self, routes: Mapping[tuple[Method, str], Access] = ROUTES) -> None:
        """Read the table."""
        self._routes = routes
        self._literal: dict[str, dict[Method, Access]] = {}
        patterns: dict[str, dict[Method, Access]] = {}
        for (method, path), access in routes.items():
            place = patterns if "{" in path else self._literal
            place.setdefault(path, {})[method] = access
        self._patterns = [(_pattern(path), methods) for path, methods in patterns.items()]

    def find(self, method: Method, path: str) -> Found:
        """Return what a request asks for.

        Where a path is written as that of several routes, the highest role of them is needed.
        """
        asked = "GET" if method == "HEAD" else method
        found: list[tuple[Access, str | None]] = []
        allowed: set[Method] = set()
        for methods, subject in self._at(path):
            allowed.update(methods)
            if asked in methods:
                found.append((methods[asked], subject))
        if not found:
            return Found(None, None, tuple(sorted(allowed)))
        access, subject = found[0]
        for other, _ in found[1:]:
            if access.role is None or (other.role is not None and other.role.may(access.role)):
                access = Access(other.role, access.action, access.reason_in_query)
        return Found(access, subject, tuple(sorted(allowed)))

    def check(self, routes: Sequence[BaseRoute]) -> None:
        """Refuse routes of an app that the table does not have.

        Raises:
            ConfigurationError: There is one.
        """
        for method, path in listed(routes):
            if (method, path) not in self._routes:
                raise ConfigurationError(
                    f"Nothing says who may use {method} {path}.",
                    hint="Give it an entry in netscript_workers/api/access.py.",
                )

    def _at(self, path: str) -> Iterator[tuple[Mapping[Method, Access], str | None]]:
        if path in self._literal:  # one that is written out goes before those with a parameter
            yield self._literal[path], None
            return
        for pattern, methods in self._patterns:
            if match := pattern.fullmatch(path):
                yield methods, "/".join(match.groups())


def listed(routes: Sequence[BaseRoute]) -> Iterator[tuple[Method, str]]:
    """Go through the methods and paths of an app's routes.

    Raises:
        ConfigurationError: One is a mount or a socket, behind which nobody can look.
    """
    # A newer FastAPI keeps routers within routers; an older one has copied them out.
    flatten: Any = getattr(fastapi.routing, "iter_route_contexts", iter)
    for route in flatten(routes):
        methods: set[str] | None = getattr(route, "methods", None)
        if not methods:
            raise ConfigurationError(f"{route!r} is no route with methods, and can't be guarded.")
        for method in sorted(methods - _IMPLIED):
            yield method, route.path


def _pattern(path: str) -> re.Pattern[str]:
    parts: list[str] = []
    end = 0
    for match in _PARAMETER.finditer(path):
        parts += [re.escape(path[end : match.start()]), "(.+)" if match[2] else "([^/]+)"]
        end = match.end()
    return re.compile("".join([*parts, re.escape(path[end:])]), re.DOTALL)
