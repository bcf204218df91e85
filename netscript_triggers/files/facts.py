"""What an event tells of a file: its payload."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from netscript_triggers.events import CHANGES, FileChange
from netscript_triggers.files.scanning import digest_of, stamp_at
from netscript_triggers.files.settling import Stamp
from netscript_workers.errors import PayloadInvalidError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KINDS: Mapping[str, type] = {
    "path": str,
    "name": str,
    "root": str,
    "change": str,
    "size": int,
    "modified_at": str,
    "sha256": str,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """A file as it was seen.

    Attributes:
        root: The watched directory that it is in.
        sha256: Of its content, in hex; None of one that was there before anybody watched.
    """

    path: str
    root: str
    stamp: Stamp
    sha256: str | None

    def payload(self, change: FileChange) -> dict[str, Any]:
        """Return the payload of an event."""
        return {
            "path": self.path,
            "name": os.path.basename(self.path),  # noqa: PTH119 - a path may be no UTF-8
            "root": self.root,
            "change": change,
            "size": self.stamp.size,
            "modified_at": _instant(self.stamp.mtime_ns),
            "sha256": self.sha256,
        }


def _instant(mtime_ns: int) -> str:
    try:
        return (_EPOCH + timedelta(microseconds=mtime_ns // 1000)).isoformat()
    except OverflowError:  # a file can be dated to any year
        return _EPOCH.isoformat()


def root_of(path: str, roots: Sequence[str]) -> str | None:
    """Return the innermost of these directories that a path is in."""
    inside = [root for root in roots if path.startswith(f"{root.rstrip('/')}/")]
    return max(inside, key=len, default=None)


def resolve(paths: Sequence[str], base: str) -> tuple[str, ...]:
    """Return the watched directories, those that are relative from `base` on."""
    return tuple(
        dict.fromkeys(os.path.normpath(os.path.join(base, path)) for path in paths)  # noqa: PTH118 - no symbolic link is resolved
    )


def event_facts(payload: Any) -> dict[str, Any]:
    """Return the attributes of a `FileEvent`.

    Raises:
        PayloadInvalidError: It is no payload of a file watch.
    """
    if not isinstance(payload, Mapping):
        raise PayloadInvalidError('The payload of a file watch is an object with a "path".')
    given = cast("Mapping[str, Any]", payload)
    for name, kind in _KINDS.items():
        value = given.get(name)
        if type(value) is not kind and not (name == "sha256" and value is None):
            told = "is missing" if name not in given else f"must be {_WORDS[kind]}"
            raise PayloadInvalidError(f'"{name}" in the payload of a file watch {told}.')
    if given["change"] not in CHANGES:
        raise PayloadInvalidError(f'"change" must be one of {", ".join(CHANGES)}.')
    try:
        modified_at = datetime.fromisoformat(given["modified_at"])
    except ValueError:
        raise PayloadInvalidError('"modified_at" must be an instant in RFC 3339.') from None
    return {**{name: given[name] for name in _KINDS}, "modified_at": modified_at}


_WORDS = {str: "text", int: "a whole number"}


def payload_given(payload: Any, roots: Sequence[str]) -> dict[str, Any]:
    """Return the payload of an event that is fired by hand with the path of a file.

    Args:
        payload: An object with a `path`, and a `change` if it is not "create". One that tells all
            that an event tells is taken as it is.
        roots: The watched directories, in one of which the file must be.

    Raises:
        PayloadInvalidError: There is no such file, it is elsewhere, or it can't be read.
    """
    given: dict[str, Any] = cast("dict[str, Any]", payload) if isinstance(payload, dict) else {}
    if "sha256" in given:
        event_facts(given)
        return given
    path = given.get("path")
    if not isinstance(path, str) or set(given) - {"path", "change"} or "\0" in path:
        raise PayloadInvalidError(
            "The payload of a file watch names a file.",
            hint='Write it as {"path": "/where/it/is.csv"}.',
        )
    change = given.get("change", "create")
    if change not in CHANGES:
        raise PayloadInvalidError(f'"change" must be one of {", ".join(CHANGES)}.')
    whole = _find(path, roots)
    root = root_of(whole, roots)
    if root is None or not _is_really_in(whole, root):
        raise PayloadInvalidError(
            f"{path!r} is in no directory that the trigger watches.",
            hint=f"They are: {', '.join(roots)}.",
        )
    return _read(whole, root).payload(change)


def _find(path: str, roots: Sequence[str]) -> str:
    """Return a path as a whole; one that is relative goes on from the root that has it."""
    whole = [os.path.normpath(os.path.join(root, path)) for root in roots]  # noqa: PTH118 - a path may be no UTF-8
    return next((one for one in whole if os.path.lexists(one)), whole[0])


def _is_really_in(path: str, root: str) -> bool:
    """Tell whether no link on the way leads out of the root."""
    place = os.path.realpath(os.path.dirname(path))  # noqa: PTH120 - a path may be no UTF-8
    return f"{place}/".startswith(f"{os.path.realpath(root).rstrip('/')}/")


def _read(path: str, root: str) -> FileFacts:
    try:
        stamp = stamp_at(path)
        content = None if stamp is None else digest_of(path, stamp)
    except OSError as error:
        raise PayloadInvalidError(f"{path!r} can't be read: {error.strerror}.") from None
    if stamp is None:
        raise PayloadInvalidError(f"There is no file {path!r}.")
    if content is None:
        raise PayloadInvalidError(f"{path!r} is being written.", hint="Fire when it is finished.")
    return FileFacts(path=path, root=root, stamp=stamp, sha256=content)
