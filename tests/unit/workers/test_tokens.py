"""API tokens: how they are written, and how they are compared."""

from __future__ import annotations

from hmac import compare_digest

import pytest

from netscript_workers import tokens
from netscript_workers.tokens import Role, parse_tokens

ONE = "geheim-geheim-geheim"
TWO = "Zweitens.ganz~anders+/=="


def test_a_bare_token_is_an_admins_and_others_have_names_and_roles() -> None:
    found = parse_tokens([ONE, f"ci:read:{TWO}", "drittes-drittes-drittes"])
    assert [(one.name, one.role) for one in found] == [
        ("admin", Role.ADMIN),
        ("ci", Role.READ),
        ("admin-2", Role.ADMIN),
    ]
    assert found.find(TWO) == found.named("ci")
    assert found.find("geheim") is None
    assert (len(found), bool(found), bool(parse_tokens([]))) == (3, True, False)


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        (["kurz-geheim"], "entry 1: it must have from 16 to 512"),
        ([ONE, f"ci:root:{ONE}"], "the role in entry 2 is none: read, operate, admin"),
        ([f"ci:read:{ONE}", f"ci:read:{TWO}"], "entries 1 and 2 have the same name"),
        ([ONE, f"ci:read:{ONE}"], "entries 1 and 2 have the same token"),
        ([f"ci:{ONE}"], "entry 1 is no token: write TOKEN"),
        ([f"ci:read:{ONE}:x"], "entry 1 is no token"),
        ([f"local:read:{ONE}"], "the name in entry 1"),
        ([f"a b:read:{ONE}"], "the name in entry 1"),
        ([f"{ONE} {TWO}"], 'letters, digits and "-._~+/"'),
        ([f"{ONE}:read:ci"], "entry 1: it must have from 16"),
        (["g" * 513], "from 16 to 512"),
        ([""], "from 16 to 512"),
    ],
)
def test_what_is_none_is_told_by_its_place_and_never_repeated(
    entries: list[str], told: str
) -> None:
    with pytest.raises(ValueError, match="entr") as refusal:
        parse_tokens(entries)
    assert told in str(refusal.value)
    assert not any(part in str(refusal.value) for part in (ONE, TWO, "geheim"))


def test_nothing_that_is_kept_or_shown_is_a_token() -> None:
    found = parse_tokens([ONE])
    (token,) = found
    assert ONE not in f"{found!r} {token!r}"
    assert ONE.encode() not in token.digest + token.session_key


@pytest.mark.parametrize(
    "presented", [ONE, TWO, ONE[:-1], "g", "", "x" * 100_000, "\udcff", "é", "\0"]
)
def test_as_many_digests_are_compared_whatever_is_presented(
    monkeypatch: pytest.MonkeyPatch, presented: str
) -> None:
    compared: list[tuple[int, int]] = []

    def counting(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare_digest(one, other)

    found = parse_tokens([ONE, f"ci:read:{TWO}", "drittes-drittes-drittes"])
    monkeypatch.setattr(tokens, "compare_digest", counting)
    found.find(presented)
    # Digests of one length: how much of a token was right changes nothing that could be measured.
    assert compared == [(32, 32)] * 3


def test_a_role_may_do_what_those_before_it_may() -> None:
    may = [[role.may(needed) for needed in Role] for role in Role]
    assert may == [[True, False, False], [True, True, False], [True, True, True]]
