"""Redaction: what is masked, what is left, and what it costs at most."""

from __future__ import annotations

import time

import pytest

from netscript_workers.redaction import MOST, Redactor
from netscript_workers.settings import Settings


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Authorization: Bearer abcdefgh12345678", "Authorization: Bearer ***"),
        ("authorization=Basic dXNlcjpwYXNz", "authorization=Basic ***"),
        ("{'Authorization': 'Bearer abcdefgh1234'}", "{'Authorization': 'Bearer ***'}"),
        ("(b'authorization', b'Bearer abcdefgh1234')", "(b'authorization', b'Bearer ***')"),
        ("sent bearer abc.def-ghi", "sent bearer ***"),
        ("postgresql://shop:p%40ss@db/shop", "postgresql://shop:***@db/shop"),
        ("at redis://:hunter2@cache:6379/0 now", "at redis://:***@cache:6379/0 now"),
        ("amqp://u:pa:ss@mq/vhost and b", "amqp://u:***@mq/vhost and b"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "***"),
        ("key sk_live_4eC39HqLyjWDarjtT1zdp7dc.", "key ***"),
        ("ghp_0123456789abcdef0123", "***"),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, masked: str) -> None:
    redact = Redactor()
    found = redact(text).replace("whsec_***", "***").replace("sk_live_***", "***")
    assert found.replace("ghp_***", "***") == masked
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "a wrong token came from 203.0.113.7",
        "metrics at http://127.0.0.1:9464/metrics",
        "listens at http://localhost:8091 for a@b.example",
        "bearer token is missing",
        "webhook orders refused a delivery: signature-mismatch (1 so far)",
    ],
)
def test_what_only_reminds_of_one_is_left(text: str) -> None:
    assert Redactor()(text) == text


def test_known_secrets_are_masked_wherever_they_stand_the_longest_first() -> None:
    redact = Redactor()
    redact.learn(["geheim", b"geheim-lang", "p@ssw0rd!", "kurz"])
    assert redact("x-geheim-lang-y geheim p%40ssw0rd%21 p@ssw0rd! kurz") == (
        "x-***-y *** *** *** kurz"
    )


def test_of_secrets_that_come_and_go_the_last_ones_are_known() -> None:
    redact = Redactor()
    redact.learn(f"secret-{number:06}" for number in range(2 * MOST))
    assert len(redact.known) == MOST
    assert redact(f"secret-{2 * MOST - 1:06}") == "***"
    assert redact("secret-000000") == "secret-000000"


def test_the_cost_grows_with_the_text_and_not_faster() -> None:
    redact = Redactor()
    redact.learn(f"secret-{number:06}" for number in range(20))
    for hostile in ("://", "a://b:", "authorization ", "authorization:", "bearer ", "whsec_"):
        took: list[float] = []
        for size in (20_000, 80_000):
            text = hostile * (size // len(hostile))
            began = time.process_time()
            redact(text)
            took.append(time.process_time() - began)
        assert took[1] < 0.5, hostile


def test_settings_tell_their_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("NETSCRIPT_API_TOKENS", "geheim-eins-AAAAAAAA,ci:read:geheim-zwei-BBBBBBBB")
    monkeypatch.setenv("NETSCRIPT_DATABASE_URL", "postgresql://shop:p%40ssword@db/shop")
    assert Settings.load().secrets == ("geheim-eins-AAAAAAAA", "geheim-zwei-BBBBBBBB", "p@ssword")
