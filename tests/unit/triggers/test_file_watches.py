"""File watches: patterns, when a file is finished, what becomes of it, and what is refused."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from netscript_triggers import (
    FileEvent,
    FileWatchDefinition,
    Stability,
    checkup,
    define_file_watch,
    enqueue_job,
    file_watch,
)
from netscript_triggers.files import scanning
from netscript_triggers.files.facts import FileFacts, event_facts, payload_given, root_of
from netscript_triggers.files.globs import TEMPORARY, Globs, ignored_by
from netscript_triggers.files.scanning import Selection, digest_of, stamp_at
from netscript_triggers.files.settling import Settling, Stamp
from netscript_triggers.registry import discover_triggers
from netscript_triggers.store.files import FileRecord
from netscript_triggers.testing import fire
from netscript_triggers.watching.plans import plan
from netscript_workers import PayloadInvalidError
from netscript_workers.errors import ConfigurationError


def handler(event: FileEvent) -> Any:
    """Import a file."""
    return enqueue_job("import", {"path": event.path, "size": event.size})


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*.csv", "a.csv", True),
        ("*.csv", "deep/er/a.csv", True),
        ("*.csv", "a.csv.part", False),
        ("*.csv", "a.CSV", False),
        ("orders-?.csv", "orders-1.csv", True),
        ("orders-?.csv", "orders-12.csv", False),
        ("[a-c]*.csv", "b.csv", True),
        ("[!a-c]*.csv", "b.csv", False),
        ("[^a]*", "^.csv", True),
        ("in/*.csv", "in/a.csv", True),
        ("in/*.csv", "in/b/a.csv", False),
        ("in/**/*.csv", "in/a.csv", True),
        ("in/**/*.csv", "in/b/c/a.csv", True),
        ("**/in/*", "x/y/in/a", True),
        ("**/in/*", "in/a", True),
        ("/in/*", "in/a", True),
        ("in/**", "in/b/c", True),
        ("in/**", "inn/b", False),
        ("a[", "a[", True),
        ("a.b", "axb", False),
        ("*", "line\nfeed \udcff", True),
    ],
)
def test_a_pattern_is_about_the_name_or_the_path(pattern: str, path: str, matches: bool) -> None:
    assert Globs([pattern]).match(path) is matches


def test_temporary_files_are_passed_over_unless_a_pattern_names_them() -> None:
    wanted = Globs(["*"])
    passed = ignored_by(wanted, ["archive"])
    for name in (".hidden", "a.csv~", "a.csv.part", "a.tmp", "b.swp", "archive"):
        assert passed.match(name), name
    assert not passed.match("a.csv")
    named = ignored_by(Globs(["*.part", ".env"]), [])
    assert set(TEMPORARY) - set(named.patterns) == {"*.part", ".*"}


@pytest.mark.parametrize(
    ("relative", "recursive", "takes"),
    [
        ("a.csv", False, True),
        ("b/a.csv", False, False),
        ("b/a.csv", True, True),
        ("archive/a.csv", True, False),
        ("b/archive/a.csv", True, False),
        (".git/a.csv", True, False),
        ("b/a.txt", True, False),
    ],
)
def test_a_file_in_a_directory_that_is_passed_over_is_not_meant(
    relative: str, recursive: bool, takes: bool
) -> None:
    wanted = Globs(["*.csv"])
    selection = Selection(
        patterns=wanted, ignored=ignored_by(wanted, ["archive"]), recursive=recursive
    )
    assert selection.takes(relative) is takes


def test_what_cannot_be_looked_at_does_not_end_the_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).write_text(name)
    with os.scandir(tmp_path) as entries:
        bad = next(entries).path
    looked = scanning._stamp_of
    told: list[str] = []

    def failing(entry: os.DirEntry[str]) -> Stamp | None:
        if entry.path == bad:
            raise OSError(116, "Stale file handle")
        return looked(entry)

    monkeypatch.setattr(scanning, "_stamp_of", failing)
    everything = Selection(patterns=Globs(["*"]), ignored=Globs([]))
    walked = everything.walk(str(tmp_path), str(tmp_path), lambda path, _: told.append(path))
    found = {one[0] for one in walked if one is not None}
    assert found == {str(path) for path in tmp_path.iterdir()} - {bad}
    assert told == [bad]


def stamp(size: int = 1, mtime: int = 1, inode: int = 1) -> Stamp:
    return Stamp(size, mtime, inode)


def test_a_file_is_finished_when_it_was_the_same_in_several_looks() -> None:
    settling = Settling(Stability(interval=1.0, checks=3), debounce=0.0)
    settling.note("a", stamp(), 10.0)
    assert (settling.due(10.9), settling.due(11.0), settling.next_at()) == ([], ["a"], 11.0)
    assert not settling.look("a", stamp(), 11.0)
    assert not settling.look("a", stamp(size=2), 12.0)  # it has grown: from the beginning
    assert not settling.look("a", stamp(size=2), 13.0)
    assert settling.look("a", stamp(size=2), 14.0)
    settling.forget("a")
    assert len(settling) == 0


@pytest.mark.parametrize("changed", [stamp(size=2), stamp(mtime=2), stamp(inode=2)])
def test_size_time_and_inode_each_tell_of_a_change(changed: Stamp) -> None:
    settling = Settling(Stability(interval=1.0, checks=2), debounce=0.0)
    settling.note("a", stamp(), 0.0)
    settling.note("a", changed, 0.5)
    assert settling.due(1.0) == []
    assert settling.look("a", changed, 1.5)


def test_debounce_counts_from_the_last_change() -> None:
    settling = Settling(Stability(interval=0.0, checks=1), debounce=5.0)
    settling.note("a", stamp(), 0.0)
    settling.note("a", stamp(size=2), 4.0)
    assert settling.due(8.9) == []
    assert settling.look("a", stamp(size=2), 9.0)
    slow = Settling(Stability(interval=1.0, checks=2), debounce=5.0)
    slow.note("a", stamp(), 0.0)
    assert [slow.look("a", stamp(), float(at)) for at in (1, 4, 5)] == [False, False, True]


def facts(path: str, content: str = "x", stamped: Stamp | None = None) -> FileFacts:
    return FileFacts(path=path, root="/in", stamp=stamped or stamp(), sha256=content)


def record(path: str, content: str | None = "x", stamped: Stamp | None = None) -> FileRecord:
    return FileRecord(
        path=path, stamp=stamped or stamp(), sha256=content, event_id="e", generation=1
    )


def changes(*seen: FileFacts, records: Any = (), gone: Any = (), **more: Any) -> list[Any]:
    known = {one.path: one for one in records}
    made = plan(
        seen,
        known,
        list(records),
        on=("create", "modify"),
        has_left=lambda one: one.path in gone,
        **more,
    )
    return [(one.facts.path, one.change, one.moved_from and one.moved_from.path) for one in made]


def test_a_new_file_is_created_and_other_content_modifies_it() -> None:
    assert changes(facts("a")) == [("a", "create", None)]
    assert changes(facts("a", "y"), records=[record("a")]) == [("a", "modify", None)]
    touched = facts("a", stamped=stamp(mtime=2))
    assert changes(touched, records=[record("a")]) == [("a", None, None)]
    assert changes(touched, records=[record("a", None)]) == [("a", "modify", None)]


def test_a_file_that_was_never_read_may_have_another_inode() -> None:
    remounted = facts("a", stamped=stamp(inode=2))
    assert changes(remounted, records=[record("a", None)]) == [("a", None, None)]


def test_a_file_that_has_moved_is_no_new_one_but_a_copy_is() -> None:
    old = [record("a")]
    assert changes(facts("b"), records=old, gone={"a"}) == [("b", None, "a")]
    assert changes(facts("b"), records=old) == [("b", "create", None)]  # a second name for it
    copy = facts("b", stamped=stamp(inode=2))
    assert changes(copy, records=old, gone={"a"}) == [("b", "create", None)]
    written = facts("b", "y", stamped=stamp(mtime=2))
    assert changes(written, records=old, gone={"a"}) == [("b", "create", None)]
    seen_unread = [record("a", None)]
    assert changes(facts("b"), records=seen_unread, gone={"a"}) == [("b", None, "a")]


def test_what_takes_the_place_of_a_file_that_has_moved_is_new() -> None:
    new = facts("a", "y", stamp(inode=2))
    both = changes(facts("b"), new, records=[record("a")], gone={"a"})
    assert both == [("b", None, "a"), ("a", "create", None)]
    # Were it stored first, the one that has moved would be taken for new.
    assert changes(new, records=[record("a")], unfinished={stamp(): "b"}) == []
    assert changes(new, records=[record("a")], unfinished={}) == [("a", "modify", None)]


def test_two_files_may_change_places() -> None:
    one, two = record("a"), record("b", "y", stamp(inode=2))
    swapped = changes(
        facts("b"), facts("a", "y", stamp(inode=2)), records=[one, two], gone={"a", "b"}
    )
    assert swapped == [("b", None, "a"), ("a", None, "b")]


def test_what_was_gone_and_is_back_is_new_whatever_is_in_it() -> None:
    again = facts("a", stamped=stamp(mtime=2))
    assert changes(again, records=[record("a")], reborn={"a"}) == [("a", "create", None)]


def test_both_forms_make_the_same_value() -> None:
    options: Any = {"id": "in", "paths": ["/in", Path("/also")], "patterns": ["*.csv"]}
    made, decorated = define_file_watch(handler, **options), file_watch(**options)(handler)
    for one in (made, decorated):
        assert isinstance(one, FileWatchDefinition)
        assert (one.kind, one.id, one.paths) == ("file-watch", "in", ("/in", "/also"))
        assert (one.on, one.dispatch) == (("create", "modify"), "background")
        assert (one.stability, one.debounce) == (Stability(), 0.0)
        assert (one.poll_interval, one.existing) == (30.0, "take")
        assert one.description == "Import a file."
    assert define_file_watch(handler, polling=True, **options).poll_interval == 5.0
    assert repr(made).startswith("<file-watch 'in' over /in, /also from ")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "id is missing"),
        ({"id": "x"}, "paths is missing"),
        ({"id": "no blanks", "paths": ["/a"]}, "letters, digits"),
        ({"id": "x", "paths": "/a"}, "must be several"),
        ({"id": "x", "paths": []}, "paths is empty"),
        ({"id": "x", "paths": [5]}, "paths holds 5"),
        ({"id": "x", "paths": ["/a\0"]}, "paths holds"),
        ({"id": "x", "paths": ["/a"], "patterns": "*.csv"}, "must be several"),
        ({"id": "x", "paths": ["/a"], "patterns": []}, "patterns is empty"),
        ({"id": "x", "paths": ["/a"], "patterns": ["[z-a]"]}, "can't be read"),
        ({"id": "x", "paths": ["/a"], "on": ("made",)}, "must be some of create, modify, delete"),
        ({"id": "x", "paths": ["/a"], "on": "create"}, "must be several"),
        ({"id": "x", "paths": ["/a"], "debounce": -1}, "a number of seconds"),
        ({"id": "x", "paths": ["/a"], "stability": 3}, "a Stability"),
        ({"id": "x", "paths": ["/a"], "existing": "skip"}, 'must be "take" or "ignore"'),
        ({"id": "x", "paths": ["/a"], "polling": 5}, "True or False"),
        ({"id": "x", "paths": ["/a"], "poll_interval": 0.01}, "0.1 or more"),
        ({"id": "x", "paths": ["/a"], "path": "/x"}, 'Did you mean "paths"'),
        ({"id": "x", "paths": ["/a"], "concurrency": 0}, "1 or more"),
    ],
)
def test_what_cannot_work_is_refused(options: Any, told: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        define_file_watch(handler, **options)
    assert told in f"{error.value} {error.value.hint}"


@pytest.mark.parametrize("options", [{"interval": -1}, {"checks": 0}, {"checks": 1.5}])
def test_a_stability_that_cannot_be_meant_is_refused(options: Any) -> None:
    with pytest.raises(ConfigurationError, match="Stability"):
        Stability(**options)


def test_relative_paths_go_on_from_the_project(tmp_path: Path) -> None:
    folder = tmp_path / "triggers"
    folder.mkdir()
    (folder / "inbox.py").write_text(
        "from netscript_triggers import file_watch\n"
        '@file_watch(id="inbox", paths=["inbox", "/data/./in/"])\n'
        "def inbox(event): ...\n"
    )
    found: Any = discover_triggers(tmp_path)["inbox"]
    assert found.paths == (f"{tmp_path}/inbox", "/data/in")


async def test_fire_makes_up_what_is_missing_of_a_file() -> None:
    seen: list[FileEvent] = []

    def keep(event: FileEvent) -> Any:
        seen.append(event)
        return handler(event)

    watch = define_file_watch(keep, id="in", paths=["/in"])
    (action,) = await fire(watch, {"path": "/in/deep/a.csv", "size": 7})
    assert action == enqueue_job("import", {"path": "/in/deep/a.csv", "size": 7})
    (event,) = seen
    assert (event.kind, event.change, event.name) == ("file-watch", "create", "a.csv")
    assert event.root == "/in/deep"
    assert event.sha256 == hashlib.sha256().hexdigest()
    assert event.modified_at.tzinfo is not None
    with pytest.raises(PayloadInvalidError, match='"path" in the payload of a file watch is'):
        await fire(watch, {})
    with pytest.raises(PayloadInvalidError, match="must be one of"):
        await fire(watch, {"path": "/in/a", "change": "moved"})


def test_the_path_of_a_file_makes_a_payload(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    path = tmp_path / "deep" / "a.csv"
    path.write_bytes(b"1,2")
    os.utime(path, (0, 1.5))
    roots = ["/elsewhere", str(tmp_path)]
    for given in (str(path), "deep/a.csv", "deep/../deep/a.csv"):
        made = payload_given({"path": given}, roots)
        assert made == {
            "path": str(path),
            "name": "a.csv",
            "root": str(tmp_path),
            "change": "create",
            "size": 3,
            "modified_at": "1970-01-01T00:00:01.500000+00:00",
            "sha256": hashlib.sha256(b"1,2").hexdigest(),
        }
        assert payload_given(made, roots) == made
        assert event_facts(made)["modified_at"] == datetime(1970, 1, 1, 0, 0, 1, 500_000, UTC)
    assert payload_given({"path": "deep/a.csv", "change": "modify"}, roots)["change"] == "modify"


def test_what_names_no_file_of_the_watch_is_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for place in (inside, outside):
        place.mkdir()
    (outside / "secret").write_text("x")
    (inside / "link").symlink_to(outside)
    (inside / "secret").symlink_to(outside / "secret")
    roots = [str(inside)]
    for payload, told in (
        (5, "names a file"),
        ({"file": "a"}, "names a file"),
        ({"path": "a\0"}, "names a file"),
        ({"path": "a", "mode": 5}, "names a file"),
        ({"path": "a", "change": "moved"}, "must be one of"),
        ({"path": str(outside / "secret")}, "no directory that the trigger watches"),
        ({"path": "../out/secret"}, "no directory that the trigger watches"),
        ({"path": "link/secret"}, "no directory that the trigger watches"),
        ({"path": "secret"}, "There is no file"),
        ({"path": "nothing"}, "There is no file"),
        ({"path": "a", "sha256": "x"}, '"name" in the payload of a file watch is missing'),
    ):
        with pytest.raises(PayloadInvalidError, match=told):
            payload_given(payload, roots)


def test_doctor_tells_of_a_directory_that_it_may_not_look_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "in"
    place.mkdir()
    watch = define_file_watch(handler, id="in", paths=[place])
    assert checkup._watched(watch, str(place)).status == "ok"
    looked = os.stat

    def closed(path: Any, **options: Any) -> os.stat_result:
        if str(path) == str(place):
            raise PermissionError(13, "Permission denied")
        return looked(path, **options)

    monkeypatch.setattr(os, "stat", closed)  # root may look at everything
    found = checkup._watched(watch, str(place))
    assert (found.status, "can't be looked at: Permission denied" in found.detail) == ("fail", True)


def test_doctor_tells_of_a_directory_whose_name_is_no_text(tmp_path: Path) -> None:
    place = tmp_path / os.fsdecode(b"in\xff")
    place.mkdir()
    watch = define_file_watch(handler, id="in", paths=[place])
    found = checkup._watched(watch, str(place))
    assert (found.status, "its name is not UTF-8" in found.detail) == ("warn", True)


def test_a_path_belongs_to_the_innermost_root() -> None:
    assert root_of("/in/deep/a", ["/in", "/in/deep", "/i"]) == "/in/deep"
    assert root_of("/inn/a", ["/in"]) is None
    assert root_of("/a", ["/"]) == "/"


def test_content_is_not_told_of_what_is_no_file_or_was_touched(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 3_000_000)
    there = stamp_at(str(path))
    assert there is not None
    assert digest_of(str(path), there) == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert digest_of(str(path), there, lambda: True) is None
    assert digest_of(str(path), there._replace(size=1)) is None
    os.utime(path)
    assert digest_of(str(path), there) is None
    path.unlink()
    assert digest_of(str(path), there) is None
    os.mkfifo(path)  # opening one for reading would wait for ever
    assert stamp_at(str(path)) is None
    assert digest_of(str(path), there) is None
