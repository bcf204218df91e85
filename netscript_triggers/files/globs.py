"""Patterns of file names: what a file watch takes, and what it passes over."""

from __future__ import annotations

import re
from collections.abc import Sequence

# What programs call a file that they have not finished, or that is nobody's business.
TEMPORARY = (".*", "*~", "*.tmp", "*.part", "*.partial", "*.filepart", "*.crdownload", "*.swp")


class Globs:
    """Several patterns, of which one must match.

    One without a slash is about the name alone, one with a slash about the path below the watched
    directory. `*`, `?` and `[a-z]` stand for no slash, `**/` for any number of directories.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        """Compile them."""
        self.patterns = tuple(patterns)
        self._names = _any_of([one for one in patterns if "/" not in one])
        self._paths = _any_of([one.removeprefix("/") for one in patterns if "/" in one])

    def match(self, relative: str) -> bool:
        """Tell whether one matches a path, given as it stands below the watched directory."""
        if self._names is not None and self._names.fullmatch(relative.rpartition("/")[2]):
            return True
        return self._paths is not None and self._paths.fullmatch(relative) is not None

    def names(self, temporary: str) -> bool:
        """Tell whether one of them asks for such temporary files by their mark."""
        mark = temporary.strip("*")
        last = [one.rpartition("/")[2] for one in self.patterns]
        return any(one.startswith(mark) if mark == "." else one.endswith(mark) for one in last)


def ignored_by(patterns: Globs, given: Sequence[str]) -> Globs:
    """Return what is passed over: what is given, and temporary files that no pattern names."""
    return Globs([*given, *(one for one in TEMPORARY if not patterns.names(one))])


def _any_of(patterns: Sequence[str]) -> re.Pattern[str] | None:
    if not patterns:
        return None
    return re.compile("|".join(_translate(one) for one in patterns), re.DOTALL)


def _translate(pattern: str) -> str:
    *folders, name = pattern.split("/")
    told = "".join("(?:[^/]+/)*" if part == "**" else f"{_part(part)}/" for part in folders)
    return told + (".+" if name == "**" else _part(name))


def _part(part: str) -> str:
    """Translate what stands between two slashes."""
    pieces = re.split(r"(\*+|\?|\[!?\]?[^\]]*\])", part)
    return "".join(_PIECES.get(piece[:1], _plain)(piece) for piece in pieces)


def _plain(piece: str) -> str:
    return re.escape(piece)


def _set(piece: str) -> str:
    if len(piece) < 3:  # a bracket that nobody closes
        return re.escape(piece)
    inside = re.sub(r"([\\\[&|~])", r"\\\1", piece[1:-1])
    if inside[0] in "!^":
        inside = f"^{inside[1:]}" if inside[0] == "!" else f"\\{inside}"
    return f"(?!/)[{inside}]"


def _anything(_piece: str) -> str:
    return "[^/]*"


def _anyone(_piece: str) -> str:
    return "[^/]"


_PIECES = {"*": _anything, "?": _anyone, "[": _set}
