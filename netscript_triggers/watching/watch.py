"""One file watch: what is there is compared with what was taken, and the difference is stored.

That comparison is the truth. Notices of the file system only say where to look at once; what they
miss, the next look at everything finds.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from netscript_triggers.definitions import FileWatchDefinition
from netscript_triggers.events import FileChange
from netscript_triggers.files.facts import FileFacts, root_of
from netscript_triggers.files.settling import Settling, Stamp
from netscript_triggers.store import files
from netscript_triggers.store.files import AT_A_TIME, FileRecord, Taking
from netscript_triggers.watching.plans import plan
from netscript_triggers.watching.reading import FileReader
from netscript_triggers.watching.roots import Roots
from netscript_workers.store.engine import Store
from netscript_workers.store.idempotency import DEFAULT_WINDOW
from netscript_workers.telemetry.metering import EVENTS_ACCEPTED, METERING

T = TypeVar("T")

# Files that are waited for, and paths that are noticed, at a time; the rest is found again.
MOST = 50_000
# What was read is stored after so long, however much more there is to read.
_STORE_SECONDS = 1.0
# A directory that has just come is looked at again: its files may be older than its notices.
_AGAIN_SECONDS = 1.0
# Beyond the time that any server needs to find a file that has moved.
_GRACE_SECONDS = 2.0
# A server of an older definition, which would take anew what is forgotten, has ended by then.
_FORGET_SECONDS = 3_600.0


class FileWatch:
    """A file watch in one server.

    Only `notice()` and `look_soon()` may be called from other threads.
    """

    def __init__(
        self,
        store: Store,
        trigger: FileWatchDefinition[Any],
        *,
        window: int = DEFAULT_WINDOW,
        on_events: Callable[[], None] = lambda: None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Prepare; nothing is looked at yet.

        Args:
            store: Where files and events are stored.
            trigger: Whose files.
            window: How long idempotency keys are kept, in microseconds.
            on_events: Called after each commit that has stored events.
            is_stopped: Asked now and then whether to give up what is under way.
        """
        self.roots = Roots(trigger.id, trigger.paths, trigger.poll_interval)
        self._store = store
        self._trigger = trigger
        self._window = window
        self._on_events = on_events
        self._is_stopped = is_stopped
        self._reader = FileReader(trigger.id, is_stopped)
        self._settling = Settling(trigger.stability, trigger.debounce)
        self._grace = 2 * trigger.stability.seconds + trigger.debounce + _GRACE_SECONDS
        self._noticing = threading.Lock()
        self._noticed: set[str] = set()
        self._is_lost = False
        # Directories, and when they are looked at again.
        self._again: dict[str, float] = {}
        # Files that were taken and are not there any more, and since when.
        self._gone: dict[str, float] = {}
        self._scan_at = self._scanned_at = -math.inf
        self._is_cut = False
        self._forget_at = math.inf

    def look_soon(self) -> None:
        """Have the next turn look at everything, for notices were lost."""
        self._is_lost = True

    def notice(self, paths: Iterable[str]) -> None:
        """Hear that something may have happened at these paths."""
        with self._noticing:
            self._noticed.update(paths)
            if len(self._noticed) > MOST:
                self._noticed.clear()
                self._is_lost = True

    def rest(self) -> None:
        """Forget what was begun; the next turn looks at everything."""
        with self._noticing:
            self._noticed.clear()
        self._settling.clear()
        self._gone.clear()
        self._again.clear()
        self._scan_at = -math.inf

    def turn(self, now: float) -> float:
        """Do what is due; return the seconds after which more will be.

        Args:
            now: Seconds on a clock that only goes forward.

        Raises:
            SQLAlchemyError: The database did not answer; the next turn looks at everything.
        """
        try:
            return self._turn(now)
        except BaseException:
            self._scan_at = -math.inf
            raise

    def _turn(self, now: float) -> float:
        self._forget_at = min(self._forget_at, now + _FORGET_SECONDS)
        if self.roots.look():
            self._scan_at = now
            self._gone = {path: since for path, since in self._gone.items() if self._tells(path)}
        noticed, again = self._take_noticed(now)
        if now >= self._scan_at:
            self._scan(now)
        else:
            self._look_at(noticed | again, now)
        self._again |= {path: now + _AGAIN_SECONDS for path in noticed if _is_directory(path)}
        self._settle(now)
        self._remove(now)
        again_at = min(self._again.values(), default=math.inf)
        return max(min(self._scan_at, self._settling.next_at(), again_at) - now, 0.0)

    def _take_noticed(self, now: float) -> tuple[set[str], set[str]]:
        with self._noticing:
            noticed, self._noticed = self._noticed, set()
            lost, self._is_lost = self._is_lost, False
        if lost:
            self._scan_at = now
        again = {path for path, at in self._again.items() if at <= now}
        for path in again:
            del self._again[path]
        return noticed, again

    # Looking.

    def _scan(self, now: float) -> None:
        """Look at everything there is, and for what is gone."""
        self._is_cut = False
        with self._store.read() as conn:
            before = files.read_roots(conn, self._trigger.id)
        for root, identity in self.roots.there.items():
            is_first = self._trigger.existing == "ignore" and root not in before
            found = 0
            for some in _batches(self._walk(root, root)):
                found += len(some)
                self._pass_over(root, some, now) if is_first else self._note(some, now)
            if self._is_stopped():
                return
            noted = before.get(root)
            if self.roots.judge(root, noted, now, empty=not found):
                with self._store.begin() as conn:
                    files.note_root(
                        conn, self._store.dialect, self._trigger.id, root, identity.inode
                    )
        # What is not waited for yet is found as soon as there is room for it.
        soon = self._trigger.stability.seconds + self._trigger.debounce + _AGAIN_SECONDS
        wait = self._trigger.poll_interval
        self._scan_at = now + (min(soon, wait) if self._is_cut else wait)
        if not self._is_cut:
            self._look_for_gone(now)
            self._scanned_at = now
            if others := before.keys() - set(self.roots.paths):
                self._forget_roots(others, now)

    def _look_at(self, paths: set[str], now: float) -> None:
        """Look at some paths."""
        found: list[tuple[str, Stamp]] = []
        gone: list[str] = []
        for path in paths:
            root = root_of(path, self.roots.paths)
            if root is None or root not in self.roots.there:
                continue
            relative = path[len(root.rstrip("/")) + 1 :]
            if _is_directory(path):
                if self._trigger.selection.enters(relative):
                    found += self._walk(root, path)
            elif self._trigger.selection.takes(relative):
                stamp = self._reader.stamp(path)
                if stamp is None:
                    gone.append(path)
                else:
                    found.append((path, stamp))
        for some in _batches(found):
            self._note(some, now)
        self._note_gone(gone, now)

    def _walk(self, root: str, start: str) -> Iterator[tuple[str, Stamp]]:
        for one in self._trigger.selection.walk(root, start, self._reader.cannot_read):
            if one is not None:
                yield one
            elif self._is_stopped():
                return

    def _note(self, found: Sequence[tuple[str, Stamp]], now: float) -> None:
        """Wait for those of these files that are not as they were taken."""
        known = self._read(path for path, _ in found if path not in self._settling)
        for path, stamp in found:
            record = known.get(path)
            if record is not None and record.stamp == stamp:
                self._settling.forget(path)
                self._gone.pop(path, None)
            elif path in self._settling or len(self._settling) < MOST:
                self._settling.note(path, stamp, now)
            else:
                self._is_cut = True

    def _look_for_gone(self, now: float) -> None:
        after: str | None = ""
        while after is not None and not self._is_stopped():
            with self._store.read() as conn:
                records, after = files.page(conn, self._trigger.id, after)
            meant = [one.path for one in records if self._is_meant(one.path)]
            self._note_missing([path for path in meant if self._is_missing(path)], now)
            if len(meant) < len(records) and now >= self._forget_at:
                self._forget({one.path for one in records}.difference(meant))

    def _is_meant(self, path: str) -> bool:
        """Tell whether a file that was taken is one of those that are watched now."""
        return any(
            path.startswith(inside) and self._trigger.selection.takes(path[len(inside) :])
            for inside in (f"{root.rstrip('/')}/" for root in self.roots.paths)
        )

    def _forget(self, paths: Collection[str]) -> None:
        with self._store.begin() as conn:
            files.forget(conn, self._store.dialect, self._trigger.id, paths)

    def _forget_roots(self, roots: Collection[str], now: float) -> None:
        if now >= self._forget_at and not self._is_stopped():
            with self._store.begin() as conn:
                files.forget_roots(conn, self._store.dialect, self._trigger.id, roots)

    def _is_missing(self, path: str) -> bool:
        return self._tells(path) and self._reader.stamp(path) is None

    def _tells(self, path: str) -> bool:
        """Tell whether there would be a file at a path, had it not been removed."""
        root = root_of(path, self.roots.paths)
        return root is not None and self.roots.is_believed(root)

    def _note_gone(self, paths: Sequence[str], now: float) -> None:
        """Notice that nothing is at these paths; what was taken there is gone."""
        for some in _batches(paths):
            self._note_missing(self._read(some), now)

    def _note_missing(self, paths: Iterable[str], now: float) -> None:
        for path in paths:
            if len(self._gone) < MOST and self._tells(path):
                self._gone.setdefault(path, now)

    # Taking.

    def _settle(self, now: float) -> None:
        """Take the files that are finished; small ones first, for a large one is read for long."""
        ready: list[tuple[str, Stamp]] = []
        vanished: list[str] = []
        for path in self._settling.due(now):
            stamp = self._reader.stamp(path)
            if stamp is None:
                self._settling.forget(path)
                vanished.append(path)
            elif self._settling.look(path, stamp, now):
                ready.append((path, stamp))
        self._note_gone(vanished, now)
        ready.sort(key=lambda one: one[1].size)
        for some in _batches(ready):
            if self._is_stopped():
                return
            self._take(some, now)

    def _take(self, finished: Sequence[tuple[str, Stamp]], now: float) -> None:
        known = self._read([path for path, _ in finished])
        seen: list[FileFacts] = []
        since = time.monotonic()
        for path, stamp in finished:
            content = self._reader.digest(path, stamp)
            root = root_of(path, self.roots.paths)
            if self._is_stopped():
                return
            if content is None or root is None:
                self._begin_anew(path, now)
                continue
            seen.append(FileFacts(path=path, root=root, stamp=stamp, sha256=content))
            if time.monotonic() - since > _STORE_SECONDS:
                self._keep(seen, known)
                seen, since = [], time.monotonic()
        if seen:
            self._keep(seen, known)

    def _begin_anew(self, path: str, now: float) -> None:
        """Wait for a file that was touched while it was read; one that can't be is left alone."""
        self._settling.forget(path)
        stamp = self._reader.stamp(path)
        if stamp is not None and not self._reader.is_told_of(path):
            self._settling.note(path, stamp, now)

    def _keep(self, seen: Sequence[FileFacts], known: dict[str, FileRecord]) -> None:
        inodes = {facts.stamp.inode for facts in seen}
        with self._store.read() as conn:
            elsewhere = files.read_inodes(conn, self._store.dialect, self._trigger.id, inodes)
        takings = plan(
            seen,
            known,
            elsewhere,
            on=self._trigger.on,
            reborn=self._gone,
            unfinished=self._settling.stamps,
            has_left=self._has_left,
        )
        self._commit(takings)

    def _has_left(self, record: FileRecord) -> bool:
        root = root_of(record.path, self.roots.paths)
        if root is None or root not in self.roots.there:
            return False
        stamp = self._reader.stamp(record.path, other=record.stamp)
        return stamp is None or stamp.inode != record.stamp.inode

    def _pass_over(self, root: str, found: Sequence[tuple[str, Stamp]], now: float) -> None:
        """Store files that were there before anybody watched, without events."""
        seen = [FileFacts(path=path, root=root, stamp=stamp, sha256=None) for path, stamp in found]
        with self._store.begin() as conn:
            is_first = files.pass_over(
                conn,
                self._store.dialect,
                self._trigger.id,
                root,
                seen,
                now=self._store.now(conn),
            )
        if not is_first:
            self._note(found, now)

    def _commit(self, takings: Sequence[Taking]) -> None:
        if not takings:
            return
        with self._store.begin() as conn:
            stored = files.store(
                conn,
                self._store.dialect,
                self._trigger.id,
                takings,
                now=self._store.now(conn),
                window=self._window,
            )
        for one in takings:
            self._settling.forget(one.facts.path)
            self._gone.pop(one.facts.path, None)
        if stored:
            METERING.add(EVENTS_ACCEPTED, stored, self._trigger.id)
            self._on_events()

    # Removing.

    def _remove(self, now: float) -> None:
        """Forget files that are gone, once it is certain that they have not moved."""
        ripe = [path for path, since in self._gone.items() if since + self._grace <= now]
        if not ripe or self._is_cut:
            return
        if any(self._gone[path] > self._scanned_at for path in ripe):
            # Where a file has moved to may not have been noticed.
            if "delete" in self._trigger.on:
                self._scan_at = now
            ripe = [path for path in ripe if self._gone[path] <= self._scanned_at]
        for some in _batches(ripe):
            self._remove_some(some, now)

    def _remove_some(self, paths: Sequence[str], now: float) -> None:
        known = self._read(paths)
        waited_for = self._settling.stamps
        takings: list[Taking] = []
        for path in paths:
            record, root = known.get(path), root_of(path, self.roots.paths)
            if record is None:
                del self._gone[path]
            elif (
                root is not None
                and self.roots.is_believed(root)
                and record.stamp not in waited_for
                and self._reader.stamp(path, other=record.stamp) is None
            ):
                takings.append(self._removal(record, root))
            else:
                self._gone[path] = now
        # Had a share been unmounted meanwhile, all of its files would seem gone.
        if self.roots.look():
            self._scan_at = now
        else:
            self._commit(takings)

    def _removal(self, record: FileRecord, root: str) -> Taking:
        facts = FileFacts(path=record.path, root=root, stamp=record.stamp, sha256=record.sha256)
        change: FileChange | None = "delete" if "delete" in self._trigger.on else None
        return Taking(facts=facts, change=change, before=record, is_gone=True)

    def _read(self, paths: Iterable[str]) -> dict[str, FileRecord]:
        asked = list(paths)
        if not asked:
            return {}
        with self._store.read() as conn:
            return files.read(conn, self._store.dialect, self._trigger.id, asked)


def _is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)  # noqa: PTH112, PTH114 - a path may be no UTF-8


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while some := list(islice(rest, AT_A_TIME)):
        yield some
