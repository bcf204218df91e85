"""What a task prints: kept as lines and as a tail, however much it is."""

from __future__ import annotations

import re
from collections.abc import Callable

from netscript_workers.payloads import MAX_JSON_BYTES

# A result that is longer is refused, so more than this of the end need not be kept.
TAIL_BYTES = MAX_JSON_BYTES + 4096
# A longer line is cut; the log keeps fewer characters of it anyway.
MAX_LINE_BYTES = 8192
_MOST_REPORTS = 10_000
_MARK = b"::progress "
_REPORT = re.compile(rb"::progress +(\d{1,3}(?:\.\d{1,6})?)%?(?: +(.*))?\s*")


class Capture:
    """Takes one stream of a process, chunk by chunk, in memory of a fixed size.

    Attributes:
        total: Bytes in all.
        is_cut: Whether there were lines that nobody was told of.
    """

    def __init__(
        self,
        on_line: Callable[[str], bool],
        on_progress: Callable[[float, str | None], None] | None = None,
        *,
        tail: int = TAIL_BYTES,
    ) -> None:
        """Tell of every line until `on_line` says that it has no room for this one."""
        self._on_line, self._on_progress = on_line, on_progress
        self._limit = tail
        self._tail = bytearray()
        self._line = bytearray()
        self._held: bytes | None = None
        self._reports = 0
        self._first = b""
        self._is_blank = True  # all that has been printed of the line so far
        self.total = 0
        self.is_cut = False

    def feed(self, chunk: bytes) -> None:
        """Take what was printed."""
        self.total += len(chunk)
        self._tail += chunk
        if len(self._tail) > 2 * self._limit:
            del self._tail[: -self._limit]
        self._note_first(chunk)
        if not self.is_cut or (self._on_progress and self._reports < _MOST_REPORTS):
            self._split(chunk)

    def close(self) -> None:
        """Take the end of the stream: a last line without a line feed is one, too."""
        if self._line:
            self._take(bytes(self._line))
            self._line.clear()

    def let_go(self) -> None:
        """Tell of the line that was held because it could be the result."""
        if self._held is not None:
            self._tell(self._held)
            self._held = None

    def last_line(self) -> tuple[bytes, bool]:
        """Return the last line that is not blank, and whether all of it is there.

        Of one that is too long to be kept its first byte alone tells what it was meant to be.
        """
        text = bytes(self._tail).rstrip()
        start = max(text.rfind(b"\n"), text.rfind(b"\r"))
        if start < 0 and self.total > len(self._tail):
            return self._first, False
        return text[start + 1 :].lstrip(), True

    def tail(self, lines: int, limit: int) -> str:
        """Return the last lines, in no more than so many characters."""
        last = bytes(self._tail[-limit * 2 :]).decode("utf-8", "backslashreplace")
        return "\n".join(last.rstrip().splitlines()[-lines:])[-limit:]

    def _note_first(self, chunk: bytes) -> None:
        """Remember how the last line begins that is not blank."""
        text = chunk.rstrip()
        start = text.rfind(b"\n") + 1
        if text and (start or self._is_blank):
            self._first = text[start:].lstrip()[:1]
        open_line = chunk[chunk.rfind(b"\n") + 1 :]
        self._is_blank = not open_line.strip() and (self._is_blank or b"\n" in chunk)

    def _split(self, chunk: bytes) -> None:
        if self.is_cut and _MARK not in chunk:
            self._line.clear()
            return
        first, *rest = chunk.split(b"\n")
        self._extend(first)
        for part in rest:
            self._take(bytes(self._line))
            self._line.clear()
            self._extend(part)

    def _extend(self, part: bytes) -> None:
        room = MAX_LINE_BYTES - len(self._line)
        self._line += part[:room]

    def _take(self, line: bytes) -> None:
        text = line.rstrip()
        if not text:
            return
        if self._on_progress is not None and text.startswith(_MARK):
            found = _REPORT.fullmatch(text)
            if found is not None and self._reports < _MOST_REPORTS:
                self._reports += 1
                percent, message = found.groups()
                words = None if message is None else message.decode("utf-8", "backslashreplace")
                self._on_progress(min(float(percent), 100.0), words)
                return
        self.let_go()
        if self._on_progress is not None and text.startswith(b"{"):
            self._held = text  # shown as the result, if it is the last
        else:
            self._tell(text)

    def _tell(self, line: bytes) -> None:
        # The first that is too much is told of no more, so that a full log is not one that is cut.
        self.is_cut = self.is_cut or not self._on_line(line.decode("utf-8", "backslashreplace"))
