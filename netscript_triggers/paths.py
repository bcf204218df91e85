"""Paths of webhooks: exact ones, and those with parameters, such as `/webhooks/{tenant}`.

They are compared as they come off the wire, so one path has one spelling; only the value of a
parameter may be percent-encoded (RFC 3986, section 2.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from netscript_triggers.definitions import WebhookDefinition
from netscript_workers.errors import ConfigurationError

PATH_HEADER = ":path"
"""Under this name, which no header can have, an event keeps the path with its parameters."""

_MAX_PATH = 1024
_MAX_PARTS = 32
_MAX_VALUE = 128
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_FIXED = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]+")
_ESCAPED = re.compile(rb"(?:[^%]|%[0-9A-Fa-f]{2})+")
_NONE: Mapping[str, str] = {}


def check_path(path: str, owner: str) -> None:
    """Refuse a path that can't be listened at.

    Raises:
        ConfigurationError: It can't.
    """
    parts = path.split("/")[1:]
    names = [found[1] for part in parts if (found := _PARAMETER.fullmatch(part))]
    fits = path.startswith("/") and all(map(_is_part, parts)) and len(parts) <= _MAX_PARTS
    if not fits or len(path) > _MAX_PATH:
        raise ConfigurationError(
            f"{owner}: the path {path!r} can't be used.",
            hint="Write it as /webhooks/payment or /webhooks/{tenant}: a slash first, no query, "
            "no blanks; a parameter is a whole part.",
        )
    if len(set(names)) < len(names):
        raise ConfigurationError(f"{owner}: the path {path!r} names a parameter twice.")
    if _PARAMETER.fullmatch(parts[0]):
        raise ConfigurationError(
            f"{owner}: the path {path!r} begins with a parameter, and would be every path.",
            hint="Write a fixed part first, as in /webhooks/{tenant}.",
        )


def _is_part(part: str) -> bool:
    if _PARAMETER.fullmatch(part):
        return True
    return bool(_FIXED.fullmatch(part)) and part not in {".", ".."}


def has_parameters(path: str) -> bool:
    """Tell whether a path has parameters."""
    return "{" in path


def shape_of(path: str) -> str:
    """Return a path without its parameters' names: two of one shape are the same place."""
    return _PARAMETER.sub("{}", path)


def fill(path: str, values: Mapping[str, str]) -> str:
    """Return a path with values in the places of its parameters.

    Raises:
        ConfigurationError: One is missing, or could not be received.
    """
    parts = [quote(values.get(name, ""), safe="") for name in _names(path)]
    filled = iter(parts)
    target = _PARAMETER.sub(lambda _found: next(filled), path)
    if has_parameters(path) and parameters_of(path, target) is None:
        raise ConfigurationError(
            f"The path {path} can't be filled with {dict(values)!r}.",
            hint=f"Pass a value for each of {', '.join(_names(path))}.",
        )
    return target


def parameters_of(path: str, target: str) -> Mapping[str, str] | None:
    """Return the parameters that a path finds in what was requested; None where it is another."""
    routes = _Node()
    routes.add(path, path)
    found = _find(routes, target.encode("latin-1", "replace"))
    return None if found is None else found[1]


class Routes:
    """Webhooks by their paths; how many there are makes no difference to finding one."""

    def __init__(self, triggers: Iterable[WebhookDefinition[Any]]) -> None:
        """Take webhooks of which no two have one path."""
        self._exact: dict[bytes, tuple[WebhookDefinition[Any], Mapping[str, str]]] = {}
        self._root = _Node()
        self._has_parameters = False
        for trigger in triggers:
            if has_parameters(trigger.path):
                self._root.add(trigger.path, trigger)
                self._has_parameters = True
            else:
                self._exact[trigger.path.encode()] = (trigger, _NONE)

    def find(
        self, scope: MutableMapping[str, Any]
    ) -> tuple[WebhookDefinition[Any], Mapping[str, str]] | None:
        """Return the webhook that listens at a request's path, and the path's parameters."""
        target = raw_path(scope)
        found = self._exact.get(target)
        if found is None and self._has_parameters:
            return _find(self._root, target)
        return found


def raw_path(scope: MutableMapping[str, Any]) -> bytes:
    """Return a request's path as it came; servers that don't tell it have decoded it."""
    raw: bytes | None = scope.get("raw_path")
    return scope["path"].encode("utf-8", "surrogateescape") if raw is None else raw


class _Node:
    """The parts that may follow some others."""

    __slots__ = ("fixed", "here", "names", "parameter")

    def __init__(self) -> None:
        self.fixed: dict[bytes, _Node] = {}
        self.parameter: _Node | None = None
        self.here: Any = None
        self.names: tuple[str, ...] = ()

    def add(self, path: str, here: Any) -> None:
        node = self
        for part in path.split("/")[1:]:
            if _PARAMETER.fullmatch(part):
                node.parameter = node = node.parameter or _Node()
            else:
                node = node.fixed.setdefault(part.encode(), _Node())
        node.here, node.names = here, _names(path)

    def match(self, parts: list[bytes], at: int, values: list[bytes]) -> _Node | None:
        """Return where the parts lead, fixed ones first."""
        if at == len(parts):
            return None if self.here is None else self
        follows = self.fixed.get(parts[at])
        if follows is not None and (end := follows.match(parts, at + 1, values)) is not None:
            return end
        if self.parameter is None:
            return None
        values.append(parts[at])
        end = self.parameter.match(parts, at + 1, values)
        if end is None:
            values.pop()
        return end


def _find(root: _Node, target: bytes) -> tuple[Any, Mapping[str, str]] | None:
    if len(target) > _MAX_PATH or not target.startswith(b"/"):
        return None
    parts = target.split(b"/")[1:]
    if len(parts) > _MAX_PARTS:
        return None
    raw: list[bytes] = []
    end = root.match(parts, 0, raw)
    if end is None:
        return None
    values = [_decode(value) for value in raw]
    if None in values:
        return None
    return end.here, dict(zip(end.names, map(str, values), strict=True))


def _decode(part: bytes) -> str | None:
    """Return a value as text; None where somebody could take it for something else."""
    if not _ESCAPED.fullmatch(part):
        return None
    try:
        text = unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        return None
    odd = text in {"", ".", ".."} or "/" in text or "\\" in text or not text.isprintable()
    return None if odd or len(text) > _MAX_VALUE else text


@lru_cache(maxsize=256)
def _names(path: str) -> tuple[str, ...]:
    return tuple(_PARAMETER.findall(path))
