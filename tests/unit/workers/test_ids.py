from __future__ import annotations

import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from netscript_workers.ids import is_id, new_id
from netscript_workers.store import retention


def test_an_id_is_a_uuid_of_version_7_and_the_rfc_variant() -> None:
    for _ in range(200):
        made = uuid.UUID(new_id())
        assert made.version == 7
        assert made.variant == uuid.RFC_4122


def test_an_id_begins_with_the_millisecond_it_was_made_in() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(new_id())
    after = time.time_ns() // 1_000_000

    # Ids made before within a millisecond can push it on, but never back.
    assert before <= made.int >> 80 <= after + 1


def test_ids_are_written_in_the_canonical_form() -> None:
    made = new_id()

    assert made == str(uuid.UUID(made))


def test_ids_grow_within_a_thread() -> None:
    made = [new_id() for _ in range(20_000)]

    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_grow_within_every_thread_and_are_unique_over_all() -> None:
    def mint(_: int) -> list[str]:
        return [new_id() for _ in range(2_000)]

    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(mint, range(8)))

    assert all(batch == sorted(batch) for batch in batches)
    assert len({made for batch in batches for made in batch}) == 16_000


def test_ids_go_on_growing_when_the_clock_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    present = time.time_ns()
    first = new_id()

    monkeypatch.setattr(time, "time_ns", lambda: present - 3_600 * 10**9)

    assert new_id() > first


def test_a_forked_child_mints_other_ids_than_its_parent() -> None:
    new_id()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, new_id().encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        theirs = pipe.read()
    assert os.waitpid(child, 0)[1] == 0

    assert is_id(theirs)
    assert theirs not in {new_id() for _ in range(100)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "0190163d-8694-739b-aea5-966c26f8ad9",
        "0190163D-8694-739B-AEA5-966C26F8AD91",
        "0190163d8694739baea5966c26f8ad91",
        " 0190163d-8694-739b-aea5-966c26f8ad91",
        "0190163d-8694-739b-aea5-966c26f8ad91\n",
        "../../etc/passwd",
    ],
)
def test_what_is_not_written_as_an_id_is_none(text: str) -> None:
    assert not is_id(text)


def test_a_new_id_is_one() -> None:
    assert is_id(new_id())


def test_ids_begin_with_the_time_so_they_bound_what_is_old() -> None:
    assert retention.oldest_id(0) == "00000000-0000-0000-0000-000000000000"
    assert retention.oldest_id(1_700_000_000_000_000) < new_id() < retention.oldest_id(10**16)
