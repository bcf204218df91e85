"""What a file watch takes, and what it does not: each settled file is one event."""

from __future__ import annotations

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from netscript_triggers.files.facts import event_facts
from netscript_triggers.store import files
from netscript_triggers.store.verify import verify
from netscript_triggers.watching import watch as file_watching
from netscript_workers.store.engine import Store
from tests.kit import rows, run, scalar
from tests.watching import LONG, Hand, check, events, records


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    place = tmp_path / "inbox"
    place.mkdir()
    return place


@pytest.fixture
def hand(store: Store, inbox: Path) -> Hand:
    return Hand(store, inbox, on=("create", "modify", "delete"))


def test_a_finished_file_is_one_event_that_tells_of_it(
    store: Store, inbox: Path, hand: Hand
) -> None:
    (inbox / "a.csv").write_text("1")
    hand.turn()
    (inbox / "a.csv").write_text("12")
    hand.turn(1.0)
    assert events(store) == []  # it has grown
    hand.turn(1.0)
    hand.look()
    assert events(store) == [("create", "a.csv")]
    ((status, due, body, key),) = rows(
        store,
        "SELECT status, due_at, body, idempotency_key FROM netscript_trigger_events",
    )
    facts = event_facts(json.loads(bytes(body)))
    assert (status, due is not None) == ("pending", True)
    assert (facts["path"], facts["root"], facts["size"]) == (str(inbox / "a.csv"), str(inbox), 2)
    assert facts["sha256"] == sha256(b"12").hexdigest()
    assert key.startswith("file:")
    check(store)


def test_notices_are_enough_and_only_say_where_to_look(
    store: Store, inbox: Path, hand: Hand
) -> None:
    hand.turn()
    (inbox / "deep" / "er").mkdir(parents=True)
    for name in ("a.csv", "b.txt", "c.csv.part", "deep/er/d.csv"):
        (inbox / name).write_text("x")
    hand.watch.notice([str(inbox / "a.csv"), str(inbox / "b.txt"), str(inbox / "deep")])
    hand.watch.notice([str(inbox / "nothing.csv"), str(inbox), "/elsewhere/a.csv"])
    hand.turn()
    hand.turn(1.0)
    assert sorted(events(store)) == [("create", "a.csv"), ("create", "d.csv")]


def test_what_notices_missed_the_next_look_at_everything_finds(
    store: Store, inbox: Path, hand: Hand
) -> None:
    assert hand.turn() == 30.0
    (inbox / "a.csv").write_text("x")
    hand.turn(29.0)
    hand.turn(1.0)
    hand.turn(1.0)
    assert events(store) == [("create", "a.csv")]


def test_touching_is_nothing_and_rewriting_is_a_change(
    store: Store, inbox: Path, hand: Hand
) -> None:
    path = inbox / "a.csv"
    path.write_text("1")
    hand.look()
    os.utime(path, (5, 5))
    hand.look()
    path.write_text("1")
    hand.look()
    other = inbox / "other"
    other.write_text("1")
    other.rename(path)  # as editors write
    hand.look()
    assert events(store) == [("create", "a.csv")]
    path.write_text("2")
    hand.look()
    other.write_text("3")
    other.rename(path)
    hand.look()
    assert events(store) == [("create", "a.csv"), ("modify", "a.csv"), ("modify", "a.csv")]
    stamps = rows(store, "SELECT inode, generation FROM netscript_files")
    assert stamps == [(path.stat().st_ino, 3)]
    check(store)


def test_a_renamed_file_stays_the_one_it_was(store: Store, inbox: Path, hand: Hand) -> None:
    (inbox / "a.csv").write_text("1")
    hand.look()
    (inbox / "deep").mkdir()
    (inbox / "a.csv").rename(inbox / "deep" / "b.csv")
    hand.look()
    hand.wait()
    assert events(store) == [("create", "a.csv")]
    assert records(store) == [b"b.csv"]
    # The directory, too.
    (inbox / "deep").rename(inbox / "else")
    hand.look()
    hand.wait()
    assert events(store) == [("create", "a.csv")]
    # A new file at the old name is a new file; that of another one is not overlooked.
    (inbox / "else" / "b.csv").rename(inbox / "c.csv")
    (inbox / "else" / "b.csv").write_text("2")
    hand.look()
    hand.wait()
    assert events(store) == [("create", "a.csv"), ("create", "b.csv")]
    (inbox / "x.csv.tmp").write_text("3")
    hand.look()
    (inbox / "x.csv.tmp").rename(inbox / "x.csv")
    hand.look()
    assert events(store)[2:] == [("create", "x.csv")]
    check(store)


def test_a_file_that_moves_out_and_slowly_in_is_not_gone_meanwhile(
    store: Store, inbox: Path
) -> None:
    hand = Hand(store, inbox, on=("create", "delete"), debounce=3 * LONG)
    (inbox / "a.csv").write_text("1")
    hand.look()
    hand.turn(3 * LONG)
    assert events(store) == [("create", "a.csv")]
    (inbox / "a.csv").rename(inbox / "b.csv")
    hand.look()
    hand.turn(3 * LONG - 2)  # past the grace of what is gone, and b.csv is not finished
    hand.turn()
    assert records(store) == [b"a.csv"]
    hand.turn(3.0)
    assert records(store) == [b"b.csv"]
    assert events(store) == [("create", "a.csv")]


def test_a_removed_file_is_forgotten_and_comes_again_as_a_new_one(
    store: Store, inbox: Path, hand: Hand
) -> None:
    (inbox / "a.csv").write_text("1")
    hand.look()
    (inbox / "a.csv").unlink()
    hand.watch.notice([str(inbox / "a.csv")])
    hand.turn()
    assert events(store) == [("create", "a.csv")]  # it may have moved
    hand.wait()
    assert events(store)[1:] == [("delete", "a.csv")]
    assert records(store) == []
    (inbox / "a.csv").write_text("1")
    hand.look()
    assert events(store)[2:] == [("create", "a.csv")]
    # Gone in one look and back in the next, before it was taken for gone.
    (inbox / "a.csv").unlink()
    hand.look()
    (inbox / "a.csv").write_text("1")
    hand.look()
    hand.wait()
    assert events(store)[3:] == [("create", "a.csv")]
    keys = scalar(store, "SELECT count(DISTINCT idempotency_key) FROM netscript_trigger_events")
    assert keys == 4
    check(store)


def test_what_was_removed_before_it_was_finished_is_nothing(
    store: Store, inbox: Path, hand: Hand
) -> None:
    (inbox / "a.csv").write_text("1")
    hand.turn()
    (inbox / "a.csv").unlink()
    hand.turn(1.0)
    hand.wait()
    assert events(store) == []


@pytest.mark.parametrize(
    ("on", "wanted"),
    [
        (("create",), ["create"]),
        (("modify",), ["modify"]),
        (("delete",), ["delete"]),
        (("create", "modify", "delete"), ["create", "modify", "delete"]),
    ],
)
def test_on_says_what_makes_an_event(store: Store, inbox: Path, on: Any, wanted: Any) -> None:
    hand = Hand(store, inbox, on=on)
    for content in ("1", "2"):
        (inbox / "a.csv").write_text(content)
        hand.look()
    (inbox / "a.csv").unlink()
    hand.look()
    hand.wait()
    assert [change for change, _ in events(store)] == wanted
    assert records(store) == []
    check(store)


def test_a_restart_neither_loses_nor_repeats(store: Store, inbox: Path) -> None:
    (inbox / "a.csv").write_text("1")
    Hand(store, inbox).look()
    (inbox / "b.csv").write_text("2")  # nobody watches
    (inbox / "a.csv").rename(inbox / "c.csv")
    again = Hand(store, inbox)
    again.look()
    again.wait()
    assert events(store) == [("create", "a.csv"), ("create", "b.csv")]


def test_two_servers_take_each_file_once(store: Store, inbox: Path) -> None:
    both = [Hand(store, inbox, on=("create", "modify", "delete")) for _ in range(2)]
    for change in ("create", "modify"):
        for n in range(20):
            (inbox / f"{n}.csv").write_text(f"{change}{n}")
        for one in both:
            one.watch.look_soon()
            one.turn()
        for one in both:
            one.turn(1.0)
    for n in range(20):
        (inbox / f"{n}.csv").rename(inbox / f"{n}-moved.csv")
    for one in both:
        one.look()
    for n in range(0, 20, 2):
        (inbox / f"{n}-moved.csv").unlink()
    for one in both:
        one.look()
        one.wait()
    found = events(store)
    assert len(found) == len(set(found)) == 50
    assert [change for change, _ in found].count("delete") == 10
    check(store)


def test_who_comes_second_stores_nothing(
    store: Store, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Hand(store, inbox), Hand(store, inbox)
    (inbox / "a.csv").write_text("1")
    for one in (first, second):
        one.turn()
    # It has seen the difference, and somebody else stores it first.
    held: list[Any] = []
    monkeypatch.setattr(second.watch, "_commit", held.append)
    second.turn(1.0)
    first.turn(1.0)
    monkeypatch.undo()
    (takings,) = held
    assert [one.change for one in takings] == ["create"]
    second.watch._commit(takings)
    assert events(store) == [("create", "a.csv")]
    check(store)


ODD_NAMES = [b"\xff\xfe.csv", "žluťoučký kůň 🐎.csv".encode(), b"a\nb'\"%.csv"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_that_a_file_can_have(store: Store, inbox: Path, hand: Hand, name: bytes) -> None:
    path = inbox / os.fsdecode(name)
    path.write_text("1")
    hand.look()
    assert records(store) == [name]
    ((_, told),) = events(store)
    assert os.fsencode(told) == name
    path = path.rename(inbox / os.fsdecode(name + b".csv"))
    hand.look()
    hand.wait()
    assert (records(store), len(events(store))) == ([name + b".csv"], 1)
    path.unlink()
    hand.look()
    hand.wait()
    assert [change for change, _ in events(store)] == ["create", "delete"]
    check(store)


def test_links_pipes_and_directories_are_no_files(
    store: Store, inbox: Path, hand: Hand, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.csv").write_text("1")
    (inbox / "loop").symlink_to(inbox)
    (inbox / "out").symlink_to(outside)
    (inbox / "link.csv").symlink_to(outside / "a.csv")
    (inbox / "directory.csv").mkdir()
    os.mkfifo(inbox / "pipe.csv")
    hand.look()
    hand.watch.notice(map(str, inbox.iterdir()))
    hand.turn()
    hand.turn(1.0)
    assert events(store) == []


def test_files_that_were_there_are_taken_or_passed_over(store: Store, inbox: Path) -> None:
    (inbox / "old.csv").write_text("1")
    hand = Hand(store, inbox, existing="ignore")
    hand.look()
    assert (events(store), records(store)) == ([], [b"old.csv"])
    (inbox / "old.csv").rename(inbox / "older.csv")
    (inbox / "new.csv").write_text("2")
    hand.look()
    hand.wait()
    # Only the first look ever passes over: this one came while nobody watched.
    (inbox / "late.csv").write_text("3")
    again = Hand(store, inbox, existing="ignore")
    again.look()
    assert events(store) == [("create", "new.csv"), ("create", "late.csv")]
    (inbox / "older.csv").write_text("other")
    again.look()
    assert events(store)[2:] == [("modify", "older.csv")]
    check(store)


def test_files_that_were_passed_over_may_come_back_with_other_inodes(
    store: Store, inbox: Path
) -> None:
    (inbox / "old.csv").write_text("1")
    hand = Hand(store, inbox, existing="ignore")
    hand.look()
    shutil.copytree(inbox, inbox.with_name("copy"))
    inbox.rename(inbox.with_name("away"))
    inbox.with_name("copy").rename(inbox)
    hand.look()
    assert events(store) == []
    (inbox / "old.csv").write_text("2")
    hand.look()
    assert events(store) == [("modify", "old.csv")]


def test_what_comes_after_one_server_has_looked_no_other_one_passes_over(
    store: Store, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inbox / "old.csv").write_text("1")
    first, second = (Hand(store, inbox, existing="ignore") for _ in range(2))
    walk = second.watch._walk

    def slowly(root: str, start: str) -> Any:
        first.turn()
        (inbox / "new.csv").write_text("2")
        return walk(root, start)

    monkeypatch.setattr(second.watch, "_walk", slowly)
    second.turn()
    monkeypatch.undo()
    for one in (first, second):
        one.look()
    assert events(store) == [("create", "new.csv")]
    check(store)


def test_a_directory_that_is_added_later_has_its_own_first_look(
    store: Store, inbox: Path, tmp_path: Path
) -> None:
    Hand(store, inbox, existing="ignore").look()
    more = tmp_path / "more"
    more.mkdir()
    (more / "a.csv").write_text("1")
    hand = Hand(store, inbox, more, existing="ignore")
    hand.look()
    (more / "b.csv").write_text("2")
    hand.look()
    assert events(store) == [("create", "b.csv")]


def test_what_is_watched_no_more_is_forgotten_and_not_deleted(
    store: Store, inbox: Path, tmp_path: Path
) -> None:
    more = tmp_path / "more"
    more.mkdir()
    on = ("create", "delete")
    for path in (inbox / "a.csv", inbox / "b.txt", inbox / "c.txt", more / "d.csv"):
        path.write_text(path.name)
    Hand(store, inbox, more, patterns=["*"], on=on).look()
    taken = events(store)
    assert len(taken) == 4
    hand = Hand(store, inbox, on=on)
    hand.look()
    (inbox / "b.txt").unlink()
    (more / "d.csv").unlink()
    hand.look()
    hand.wait()
    assert len(records(store)) == 4  # a server that watches all of it may still run
    hand.turn(3600.0)
    hand.wait()
    assert (events(store), records(store)) == (taken, [b"a.csv"])
    # A directory that is watched anew has a first look again.
    (more / "e.csv").write_text("5")
    Hand(store, inbox, more, on=on, existing="ignore").look()
    assert (events(store), records(store)) == (taken, [b"a.csv", b"e.csv"])


def test_a_directory_in_another_one_forgets_none_of_its_files(store: Store, inbox: Path) -> None:
    (inbox / "deep").mkdir()
    (inbox / "deep" / "a.csv").write_text("1")
    hand = Hand(store, inbox, inbox / "deep", patterns=["deep/*.csv"])
    hand.look()
    hand.turn(3600.0)
    hand.look()
    assert (events(store), records(store)) == ([("create", "a.csv")], [b"a.csv"])


def test_a_directory_is_waited_for(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "later"
    hand = Hand(store, place)
    for _ in range(3):
        hand.turn(1.0)
    assert caplog.text.count("can't be watched: No such file or directory") == 1
    place.write_text("")
    hand.turn(1.0)
    assert "is no directory" in caplog.text
    place.unlink()
    place.mkdir()
    (place / "a.csv").write_text("1")
    hand.turn(1.0)
    hand.turn(1.0)
    assert events(store) == [("create", "a.csv")]


def test_a_share_that_is_not_mounted_has_lost_no_files(
    store: Store, inbox: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hand = Hand(store, inbox, on=("create", "modify", "delete"))
    for n in range(3):
        (inbox / f"{n}.csv").write_text("1")
    hand.look()
    away = inbox.rename(inbox.with_name("away"))
    hand.wait()
    inbox.mkdir()  # what is below the mount
    hand.wait()
    hand = Hand(store, inbox, on=("create", "modify", "delete"))  # also for a server that starts
    hand.wait()
    assert len(events(store)) == 3
    assert len(records(store)) == 3
    assert "empty and not the directory that it was" in caplog.text
    inbox.rmdir()
    away.rename(inbox)
    hand.wait()
    assert len(events(store)) == 3
    (inbox / "0.csv").unlink()
    hand.look()
    hand.wait()
    assert events(store)[3:] == [("delete", "0.csv")]


def test_a_share_that_comes_back_with_other_inodes_brings_no_new_files(
    store: Store, inbox: Path, hand: Hand
) -> None:
    for name in ("a.csv", "b.csv"):
        (inbox / name).write_text(name)
    hand.look()
    away = inbox.rename(inbox.with_name("away"))
    inbox.mkdir()  # what is below the mount
    hand.look()
    hand.watch.notice([str(inbox / "a.csv")])
    hand.turn(1.0)
    inbox.rmdir()
    shutil.copytree(away, inbox)
    hand.look()
    hand.wait()
    assert events(store) == [("create", "a.csv"), ("create", "b.csv")]


def test_another_directory_with_files_in_it_takes_the_place(store: Store, inbox: Path) -> None:
    hand = Hand(store, inbox, on=("create", "modify", "delete"))
    (inbox / "a.csv").write_text("1")
    hand.look()
    inbox.rename(inbox.with_name("away"))
    inbox.mkdir()
    (inbox / "b.csv").write_text("2")
    hand.look()
    hand.wait()
    assert events(store) == [("create", "a.csv"), ("create", "b.csv"), ("delete", "a.csv")]


def test_servers_that_see_different_directories_delete_nothing_of_each_other(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    link = tmp_path / "inbox"
    places = [tmp_path / name for name in ("a", "b")]
    both = [Hand(store, link, on=("create", "delete")) for _ in places]

    def live(*seen: Path) -> None:
        for _ in range(8):
            for place, hand in zip(seen, both, strict=True):
                link.unlink(missing_ok=True)
                link.symlink_to(place)
                hand.turn(29.0)
                hand.turn(1.0)

    for place in places:
        place.mkdir()
        (place / f"{place.name}.csv").write_text(place.name)
    live(*places)
    assert events(store) == [("create", "a.csv"), ("create", "b.csv")]
    assert caplog.text.count("is another directory for other servers") == 2
    live(places[0], places[0])  # it is mended
    assert events(store)[2:] == [("delete", "b.csv")]
    check(store)


def test_an_emptied_directory_has_lost_its_files(store: Store, inbox: Path, hand: Hand) -> None:
    (inbox / "a.csv").write_text("1")
    hand.look()
    (inbox / "a.csv").unlink()
    again = Hand(store, inbox, on=("delete",))
    again.wait()
    again.wait()
    assert events(store) == [("create", "a.csv"), ("delete", "a.csv")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_told_once_and_tried_again(
    store: Store, inbox: Path, hand: Hand, caplog: pytest.LogCaptureFixture
) -> None:
    (inbox / "a.csv").write_text("1")
    (inbox / "a.csv").chmod(0)
    for _ in range(3):
        hand.look()
    assert caplog.text.count("can't be read: Permission denied") == 1
    (inbox / "a.csv").chmod(0o600)
    hand.look()
    assert events(store) == [("create", "a.csv")]


def test_an_error_of_the_file_system_is_told_once_and_the_rest_goes_on(
    store: Store, inbox: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hand = Hand(store, inbox)
    (inbox / "a.csv").write_text("1")
    (inbox / "b.csv").write_text("2")
    opened = os.open

    def failing(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith("a.csv"):
            raise OSError(5, "Input/output error")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", failing)
    for _ in range(3):
        hand.look()
    assert events(store) == [("create", "b.csv")]
    assert caplog.text.count("Input/output error") == 1
    monkeypatch.undo()
    hand.look()
    assert events(store)[1:] == [("create", "a.csv")]


def test_thousands_at_once_are_stored_by_the_batch(store: Store, inbox: Path, hand: Hand) -> None:
    count = 1_000
    for n in range(count):
        (inbox / f"{n}.csv").write_text(str(n))
    begun: list[object] = []
    reads: list[object] = []
    event.listen(store.engine, "begin", begun.append)
    event.listen(store._reader, "before_cursor_execute", lambda *told: reads.append(told[2]))
    hand.turn()
    hand.turn(1.0)
    assert len(events(store)) == count
    batches = -(-count // files.AT_A_TIME)
    # The root is noted once; a slow machine may store a batch in two parts.
    assert len(begun) <= 2 * batches + 1
    assert len(reads) <= 5 * batches + 5
    assert hand.watch._settling.due(float("inf")) == []
    reads.clear()
    begun.clear()
    hand.turn(LONG)  # all of it is known: read by the batch, and nothing written
    assert (len(begun), len(reads) <= 2 * batches + 3) == (0, True)
    check(store)


def test_what_there_is_no_room_for_is_found_again(
    store: Store, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_watching, "MOST", 10)
    hand = Hand(store, inbox)
    for n in range(25):
        (inbox / f"{n}.csv").write_text("x")
    for _ in range(10):
        hand.turn(1.0)
    assert len(set(events(store))) == len(events(store)) == 25


def test_a_database_that_does_not_answer_costs_nothing(
    store: Store, inbox: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inbox / "a.csv").write_text("1")
    hand.turn()

    def gone(*args: Any, **kwargs: Any) -> int:
        raise OperationalError("", None, Exception())

    monkeypatch.setattr(files, "store", gone)
    for _ in range(3):
        with pytest.raises(OperationalError):
            hand.turn(1.0)
    monkeypatch.undo()
    hand.turn(1.0)
    assert events(store) == [("create", "a.csv")]


def test_notices_that_nobody_looks_after_are_given_up(
    store: Store, inbox: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand.turn()
    monkeypatch.setattr(file_watching, "MOST", 10)
    (inbox / "a.csv").write_text("1")
    for n in range(25):
        hand.watch.notice([str(inbox / f"{n}.csv")])
    assert len(hand.watch._noticed) <= 10
    hand.turn()
    hand.turn(1.0)
    assert events(store) == [("create", "a.csv")]
    hand.watch.notice([str(inbox / "a.csv")])
    hand.watch.rest()
    assert not hand.watch._noticed


def test_a_rest_takes_nothing_and_then_what_is_there(store: Store, inbox: Path, hand: Hand) -> None:
    (inbox / "a.csv").write_text("1")
    hand.turn()
    hand.watch.rest()
    hand.turn(1.0)
    assert events(store) == []
    hand.turn(1.0)
    assert events(store) == [("create", "a.csv")]


def test_verify_finds_a_file_whose_event_is_lost_or_another_ones(
    store: Store, inbox: Path, hand: Hand
) -> None:
    for name in ("a.csv", "b.csv", "c.csv"):
        (inbox / name).write_text(name)
    hand.look()
    sql = "SELECT CAST(id AS text) FROM netscript_trigger_events ORDER BY id"
    first, second, third = [id_ for (id_,) in rows(store, sql)]
    run(store, "UPDATE netscript_files SET event_id = :a WHERE event_id = :b", a=first, b=second)
    run(store, "DELETE FROM netscript_trigger_events WHERE id = :id", id=third)
    found = {one.code for one in verify(store).findings}
    assert found == {"file-event-shared", "file-event-wrong", "file-event-lost"}
