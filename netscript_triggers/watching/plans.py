"""What becomes of finished files: which are new, which were changed, and which have only moved."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence

from netscript_triggers.events import FileChange
from netscript_triggers.files.facts import FileFacts
from netscript_triggers.files.settling import Stamp
from netscript_triggers.store.files import FileRecord, Taking


def plan(
    seen: Sequence[FileFacts],
    known: Mapping[str, FileRecord],
    elsewhere: Sequence[FileRecord],
    *,
    on: Container[FileChange],
    reborn: Container[str] = (),
    unfinished: Mapping[Stamp, str] | None = None,
    has_left: Callable[[FileRecord], bool],
) -> list[Taking]:
    """Decide what is to be stored; a file that must wait for another one is left out.

    Args:
        seen: Files that are finished, with their contents.
        known: What was known of their paths.
        elsewhere: What is known of their inodes, at whatever paths.
        on: What makes an event.
        reborn: Paths at which nothing was, in some look since the file was taken.
        unfinished: Paths of files that are not finished, by their stamps.
        has_left: Tells whether a file is no longer at the path of its record.
    """
    moves = _moves(seen, known, elsewhere, has_left)
    left = {record.path for record in moves.values()}
    mine = {facts.path for facts in seen}
    takings: list[Taking] = []
    for facts in seen:
        before, moved = known.get(facts.path), moves.get(facts.path)
        change: FileChange | None = None
        if moved is None:
            new = before is None or facts.path in left or facts.path in reborn
            if before is None or new:
                change = "create"
            elif before.sha256 != facts.sha256 and not _is_remounted(before, facts):
                other = (unfinished or {}).get(before.stamp, facts.path)
                if other != facts.path and other not in mine:
                    continue  # what was here is about to be found where it has moved
                change = "modify"
        takings.append(
            Taking(
                facts=facts,
                change=change if change is not None and change in on else None,
                before=before,
                moved_from=moved,
            )
        )
    return takings


def _is_remounted(before: FileRecord, facts: FileFacts) -> bool:
    """Tell whether only the inode of a file that was never read is another one."""
    stamp = before.stamp._replace(inode=facts.stamp.inode)
    return before.sha256 is None and stamp == facts.stamp


def _moves(
    seen: Sequence[FileFacts],
    known: Mapping[str, FileRecord],
    elsewhere: Sequence[FileRecord],
    has_left: Callable[[FileRecord], bool],
) -> dict[str, FileRecord]:
    """Return, by their new paths, the records of files that have moved.

    One that has moved has the same inode and was not written since; a copy has another inode.
    """
    by_stamp = {record.stamp: record for record in elsewhere}
    moves: dict[str, FileRecord] = {}
    for facts in seen:
        record = by_stamp.get(facts.stamp)
        if record is None or record.path == facts.path:
            continue
        before = known.get(facts.path)
        if before is not None and before.sha256 == facts.sha256:
            continue  # the same content as before at this path
        if record.sha256 in {None, facts.sha256} and has_left(record):
            moves[facts.path] = by_stamp.pop(facts.stamp)
    return moves
