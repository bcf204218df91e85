"""Who comes in: paths and their parameters, addresses behind proxies, rates, what is in flight."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest

from netscript_triggers import WebhookDefinition, WebhookEvent, define_webhook
from netscript_triggers.answers import Refusal
from netscript_triggers.gates import MAX_BYTES_IN_FLIGHT, ROOM_BYTES, Gates
from netscript_triggers.paths import Routes, fill, parameters_of
from netscript_triggers.payloads import weight_of
from netscript_triggers.registry import by_path
from netscript_triggers.secrets import secrets_of
from netscript_triggers.verifiers import RawRequest
from netscript_workers.addresses import AllowList, Clients, parse_address, parse_networks
from netscript_workers.errors import ConfigurationError, DuplicateIdError


def nothing(event: WebhookEvent) -> None: ...


def hook(path: str = "/w", **options: Any) -> WebhookDefinition[Any]:
    known: dict[str, Any] = {
        "id": "w" + path.translate({ord(sign): "-" for sign in "/{}"}),
        "verifier": "memory",
    }
    return define_webhook(nothing, path=path, **{**known, **options})


def found(routes: Routes, target: str) -> tuple[str, dict[str, str]] | None:
    match = routes.find({"raw_path": target.encode("latin-1")})
    return None if match is None else (match[0].path, dict(match[1]))


PATHS = ("/w/a", "/w/{x}", "/w/a/{y}", "/w/{x}/b", "/w/{x}/{y}/c")


TARGETS: list[tuple[str, tuple[str, dict[str, str]] | None]] = [
    ("/w/a", ("/w/a", {})),
    ("/w/b", ("/w/{x}", {"x": "b"})),
    ("/w/%61", ("/w/{x}", {"x": "a"})),
    ("/w/a/b", ("/w/a/{y}", {"y": "b"})),
    ("/w/z/b", ("/w/{x}/b", {"x": "z"})),
    ("/w/a/b/c", ("/w/{x}/{y}/c", {"x": "a", "y": "b"})),
    ("/w/%C3%A9", ("/w/{x}", {"x": "é"})),
    ("/w/%2541", ("/w/{x}", {"x": "%41"})),
    ("/w/z/d", None),
    ("/w/", None),
    ("/w", None),
    ("w/a", None),
    ("/w/%2e", None),
    ("/w/..", None),
    ("/w/a%2fb", None),
    ("/w/a%5Cb", None),
    ("/w/%0a", None),
    ("/w/%00", None),
    ("/w/%ff", None),
    ("/w/%4", None),
    ("/w/\xff", None),
    ("/w/" + "x" * 129, None),
    ("/w" + "/x" * 5000, None),
]


@pytest.mark.parametrize(("target", "expected"), TARGETS)
def test_a_path_is_found_exactly_or_by_its_parameters(
    target: str, expected: tuple[str, dict[str, str]] | None
) -> None:
    assert found(Routes(map(hook, PATHS)), target) == expected


def test_two_paths_of_one_shape_are_one_place() -> None:
    with pytest.raises(DuplicateIdError, match="Two webhooks listen at"):
        by_path({"a": hook("/w/{a}"), "b": hook("/w/{b}", id="b")})


def test_a_path_is_filled_with_what_it_would_find_again() -> None:
    target = fill("/w/{x}/{y}", {"x": "a b", "y": "é"})
    assert parameters_of("/w/{x}/{y}", target) == {"x": "a b", "y": "é"}
    for bad in ({}, {"x": "a"}, {"x": "..", "y": "a"}, {"x": "a/b", "y": "c"}):
        with pytest.raises(ConfigurationError, match="can't be filled"):
            fill("/w/{x}/{y}", bad)


def test_a_callable_chooses_the_secrets_of_a_tenant() -> None:
    names: dict[str, str | list[str]] = {"a": "A", "b": ["A", "B"]}

    def choose(request: RawRequest) -> str | list[str] | None:
        return names.get(request.path_params["tenant"])

    trigger = hook("/w/{tenant}", verifier="hmac-sha256", secret_env=choose)
    environment = {"A": "one two", "B": "three", "": "never"}

    def chosen(tenant: str) -> Any:
        request = RawRequest("POST", "/w", (), b"", path_params={"tenant": tenant})
        return secrets_of(trigger, environment, request)

    assert chosen("a") == (b"one", b"two")
    assert chosen("b") == (b"one", b"two", b"three")
    assert chosen("c") is None


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.66, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.66", "198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:db8::1]:80"], "2001:db8::1"),
        ("::ffff:10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.66, nonsense"], None),
        ("10.0.0.1", ["x" * 5000], None),
        ("10.0.0.1", [","], None),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.3"], "10.0.0.3"),
        (None, ["198.51.100.1"], None),
    ],
)
def test_only_trusted_proxies_say_who_sent(
    peer: str | None, forwarded: list[str], expected: str | None
) -> None:
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    scope = {"client": peer and (peer, 1), "headers": headers}
    clients = Clients(parse_networks(["10.0.0.0/8"]))
    assert clients.address(scope) == (None if expected is None else parse_address(expected))


def test_an_address_is_on_a_list_or_not() -> None:
    allowed = AllowList(parse_networks(["203.0.113.0/24", "2001:db8::/32"]))
    told = ("203.0.113.7", "2001:db8::5", "::ffff:203.0.113.7", "203.0.114.1", "::1", "x")
    assert [parse_address(text) in allowed for text in told] == [True] * 3 + [False] * 3


def test_a_rate_lets_in_so_many_at_once_and_then_evenly() -> None:
    clock = [1000.0]
    gates, trigger = Gates(now=lambda: clock[0]), hook(rate="2/m")
    for _ in range(5):  # what only comes, and is not verified, uses nothing up
        gates.check(trigger, {})
    gates.enter(trigger, 1)
    gates.enter(trigger, 1)
    with pytest.raises(Refusal) as refusal:
        gates.check(trigger, {})
    assert (refusal.value.status, refusal.value.headers) == (429, ((b"retry-after", b"30"),))
    with pytest.raises(Refusal) as refusal:
        gates.enter(trigger, 1)
    assert refusal.value.status == 429
    assert gates.in_flight == 2
    other = hook("/other", rate="2/m")
    gates.check(other, {})
    gates.enter(other, 1)
    clock[0] += 30.0
    gates.check(trigger, {})
    gates.enter(trigger, 1)
    with pytest.raises(Refusal):
        gates.check(trigger, {})


def test_what_is_in_flight_is_bounded_in_number_and_in_bytes() -> None:
    gates, trigger = Gates(max_in_flight=2), hook()
    gates.enter(trigger, MAX_BYTES_IN_FLIGHT + 1)  # one is always taken, whatever its size
    with pytest.raises(Refusal) as refusal:
        gates.enter(trigger, 1)
    assert (refusal.value.status, refusal.value.headers) == (503, ((b"retry-after", b"5"),))
    gates.leave(MAX_BYTES_IN_FLIGHT + 1)
    gates.enter(trigger, 1)
    gates.enter(trigger, 1)
    with pytest.raises(Refusal):
        gates.enter(trigger, 1)
    with pytest.raises(Refusal):
        gates.check(trigger, {})
    gates.leave(1)
    gates.check(trigger, {})
    gates.enter(trigger, 1)
    assert gates.in_flight == 2


async def test_large_bodies_have_their_turns() -> None:
    gates, log = Gates(), list[str]()
    go_on = {name: asyncio.Event() for name in "abcd"}

    async def read(name: str, weight: int) -> None:
        async with gates.room(weight):
            log.append(name)
            await go_on[name].wait()

    async def settle() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    weights = {"a": ROOM_BYTES // 2, "b": 2**40, "c": ROOM_BYTES // 4, "d": 0}
    tasks = {name: asyncio.create_task(read(name, one)) for name, one in weights.items()}
    await settle()
    assert set(log) == {"a", "c", "d"}
    tasks["b"].cancel()  # its sender went away
    for name in "acd":
        go_on[name].set()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
    async with asyncio.timeout(1), gates.room(2**40):
        pass  # all of it was given back


async def test_a_large_body_waits_for_room_no_longer_than_a_sender_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("netscript_triggers.gates.ROOM_SECONDS", 0.01)
    gates = Gates()
    async with gates.room(ROOM_BYTES):
        for _ in range(2):
            with pytest.raises(Refusal) as refused:
                async with gates.room(1):
                    raise AssertionError("there is no room")
            assert (refused.value.status, refused.value.reason) == (503, "overloaded")
    async with gates.room(ROOM_BYTES):
        pass


def test_what_a_body_becomes_is_estimated_from_what_it_holds() -> None:
    webhook = hook(decompress=True)
    lists = b"[" + b"[]," * 100_000 + b"1]"
    assert weight_of(webhook, b"{}") == 0
    assert weight_of(webhook, lists) > 20_000_000 > weight_of(webhook, b" " * len(lists))
    assert weight_of(webhook, gzip.compress(lists), "gzip") == weight_of(webhook, lists)
    assert weight_of(webhook, b"no gzip", "gzip") == 0
