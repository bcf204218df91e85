"""Ours beside the providers' own libraries: what they sign, what they accept, what they refuse."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from netscript_triggers import RawRequest, VerificationError
from netscript_triggers.verifiers.conformance import Mutation, mutations, signed
from tests.unit.triggers.verifiers.more_oracles import ELSEWHERE
from tests.unit.triggers.verifiers.oracles import IN_HEADERS, Oracle

ORACLES = (*IN_HEADERS, *ELSEWHERE)
PACKAGES = {oracle.package: oracle for oracle in ORACLES}
HERE = [oracle for oracle in ORACLES if oracle.installed]
ALL = "NETSCRIPT_TEST_ORACLES"
_FAR = 4 * 24 * 3600


def name_of(oracle: Oracle) -> str:
    return oracle.preset


every = pytest.mark.parametrize("oracle", HERE, ids=name_of)
signing = pytest.mark.parametrize("oracle", [one for one in HERE if one.signs], ids=name_of)
# What others warn of among themselves.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_library_is_asked(package: str) -> None:
    if not PACKAGES[package].installed and os.environ.get(ALL) != "all":
        pytest.skip(f"{package} is not installed: `make oracles` installs and asks it")
    assert PACKAGES[package].installed


def by_library(oracle: Oracle, now: int) -> RawRequest:
    """Return the delivery as the library signs it."""
    assert oracle.signs is not None
    start = oracle.given.request
    headers, body = oracle.signs(start, oracle.given.secret, now)
    added = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    kept = [header for header in start.headers if header[0] not in dict(added)]
    content = start.body if body is None else body
    return RawRequest(
        start.method, start.path, [*kept, *added], content, start.query, b"", start.origin
    )


def by_us(oracle: Oracle, now: int) -> RawRequest:
    given = oracle.given
    return signed(given.verifier, given.request, (given.signing or given.secret).encode(), now)


def we_accept(oracle: Oracle, request: RawRequest, secret: str, now: int) -> bool:
    try:
        oracle.given.verifier.verify(request, [secret.encode()], now)
    except VerificationError:
        return False
    return True


def they_accept(oracle: Oracle, request: RawRequest, secret: str) -> bool:
    try:
        verdict = oracle.accepts(request, secret)
    except Exception:
        return False
    return verdict is not False


def all_mutations(oracle: Oracle, request: RawRequest) -> Iterator[Mutation]:
    given = oracle.given
    yield from mutations(request, {*given.verifier.private_headers, *given.signed_headers})


@signing
def test_what_the_library_signs_is_accepted_and_no_mutation_of_it(oracle: Oracle) -> None:
    now = int(time.time())
    request, given = by_library(oracle, now), oracle.given
    assert we_accept(oracle, request, given.secret, now)
    assert not we_accept(oracle, request, given.other, now)
    for mutation in all_mutations(oracle, request):
        if not given.accepts(mutation):
            assert not we_accept(oracle, mutation.request, given.secret, now), mutation.name
    if getattr(given.verifier, "tolerance", None) is not None:
        for offset in (-_FAR, _FAR):
            assert not we_accept(oracle, by_library(oracle, now + offset), given.secret, now)


@every
def test_what_we_sign_is_accepted_by_the_library(oracle: Oracle) -> None:
    now = int(time.time())
    request, given = by_us(oracle, now), oracle.given
    assert they_accept(oracle, request, given.secret)
    assert not they_accept(oracle, request, given.other)
    for side in (-1, 1):
        late = by_us(oracle, now + side * _FAR)
        assert they_accept(oracle, late, given.secret) is (side not in oracle.skew)


@every
def test_the_library_accepts_nothing_else_than_we_do_but_what_is_known(oracle: Oracle) -> None:
    now = int(time.time())
    request, given = by_us(oracle, now), oracle.given
    lenient: set[str] = set()
    for mutation in all_mutations(oracle, request):
        if ": doubled" in mutation.name:
            continue  # a library is given one of each header
        theirs = they_accept(oracle, mutation.request, given.secret)
        ours = we_accept(oracle, mutation.request, given.secret, now)
        assert theirs or not ours, f"only we accept {mutation.name}"
        if theirs and not ours:
            lenient.add(mutation.name)
    assert lenient == oracle.lenient
