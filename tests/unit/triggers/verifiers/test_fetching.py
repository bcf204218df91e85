"""What verifiers fetch: from where, how often, and that nobody keeps them from it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import httpx
import pytest
import respx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from netscript_triggers import RawRequest, VerificationError
from netscript_triggers.verifiers import Scheme, Verified
from netscript_triggers.verifiers.conformance import NOW, signed
from netscript_triggers.verifiers.fetching import Documents
from netscript_triggers.verifiers.google import CERTIFICATES, PubSubVerifier
from netscript_triggers.verifiers.graph import KEYS, PUBLISHER, GraphVerifier
from netscript_triggers.verifiers.jws import write_token
from netscript_triggers.verifiers.jwts import plaid
from netscript_triggers.verifiers.paypal import PayPalVerifier
from tests.unit.triggers.verifiers.samples import (
    BODY,
    ORIGIN,
    ec_jwk,
    ec_key,
    json_of,
    pem_of,
    rsa_jwk,
    rsa_key,
)

PLAID = "https://production.plaid.com/webhook_verification_key/get"
ACCOUNT = b"client:secret"
PAYPAL = "https://api.paypal.com/v1/notifications/certs/CERT-test"
MINUTE = 60.0
HOUR = 3600.0


def request(headers: dict[str, str] | None = None, body: bytes = BODY) -> RawRequest:
    wire = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    return RawRequest("POST", "/webhooks/x", wire, body, origin=ORIGIN)


async def verified(
    scheme: Scheme, given: RawRequest, secrets: Sequence[bytes], now: float = NOW
) -> Verified:
    """Verify as the edge does."""
    await scheme.prepare(given, secrets, now)
    return scheme.verify(given, secrets, now)


async def is_refused(
    scheme: Scheme, given: RawRequest, secrets: Sequence[bytes], now: float = NOW
) -> str:
    with pytest.raises(VerificationError) as refused:
        await verified(scheme, given, secrets, now)
    return refused.value.reason


def from_plaid(kid: str, key: int = 0, now: float = NOW) -> RawRequest:
    scheme: Any = plaid()
    claims = {"iat": int(now), "request_body_sha256": scheme._hash(BODY).decode()}
    token = write_token(claims, "ES256", pem_of(ec_key(key)).encode(), kid)
    return request({"Plaid-Verification": token})


def plaid_answers(route: respx.Route, *known: str) -> None:
    def answer(asked: httpx.Request) -> httpx.Response:
        kid = json.loads(asked.content)["key_id"]
        if kid in known:
            return httpx.Response(200, json={"key": ec_jwk(0, kid=kid, expired_at=None)})
        return httpx.Response(400, json={})

    route.mock(side_effect=answer)


@respx.mock
async def test_names_that_nobody_knows_do_not_keep_a_known_key_from_being_renewed() -> None:
    route = respx.post(PLAID)
    plaid_answers(route, "real")
    scheme = plaid()
    assert (await verified(scheme, from_plaid("real"), [ACCOUNT])).signed == BODY
    later = NOW + 25 * HOUR
    for number in range(300):
        await is_refused(scheme, from_plaid(f"bad-{number}", 1, later), [ACCOUNT], later)
    assert route.call_count == 1 + 10
    # Its day is over: it is asked for again, though all of the minute's questions are used up.
    assert (await verified(scheme, from_plaid("real", 0, later), [ACCOUNT], later)).signed == BODY
    assert route.call_count == 1 + 10 + 1


@respx.mock
async def test_a_known_key_that_can_not_be_renewed_is_asked_for_once_a_minute() -> None:
    route = respx.post(PLAID)
    plaid_answers(route, "real")
    scheme = plaid()
    await verified(scheme, from_plaid("real"), [ACCOUNT])
    plaid_answers(route)
    later = NOW + 25 * HOUR
    for second in (0, 1, 59, 61, 62):
        await is_refused(scheme, from_plaid("real", 0, later + second), [ACCOUNT], later + second)
    assert route.call_count == 1 + 2


async def test_what_is_not_to_be_had_takes_no_place_of_what_is() -> None:
    documents = Documents(most=2, failures=3)
    documents.put("kept", b"x", NOW)
    for number in range(100):
        documents.put(f"failed-{number}", None, NOW + number)
    assert documents.get("kept", NOW + 100) == b"x"
    assert documents.age("failed-99", NOW + 100) == 1
    assert documents.age("failed-0", NOW + 100) == float("inf")
    documents.put("second", b"y", NOW)
    documents.get("kept", NOW)  # so that it is not the one that was used the longest ago
    documents.put("third", b"z", NOW)
    assert [documents.get(name, NOW) for name in ("kept", "second", "third")] == [b"x", None, b"z"]


@respx.mock
async def test_what_could_not_be_renewed_is_good_for_as_long_as_it_was() -> None:
    documents = Documents(lifetime=100)
    route = respx.get("https://sender.example/keys")
    route.mock(return_value=httpx.Response(200, text="x"))
    await documents.fetch("https://sender.example/keys", NOW)
    route.mock(return_value=httpx.Response(500))
    await documents.fetch("https://sender.example/keys", NOW + 70)
    assert documents.get("https://sender.example/keys", NOW + 99) == b"x"
    assert documents.age("https://sender.example/keys", NOW + 99) == 29
    assert documents.get("https://sender.example/keys", NOW + 101) is None


def from_google(kid: str, key: int, now: float = NOW) -> RawRequest:
    claims = {
        "iss": "https://accounts.google.com",
        "aud": f"{ORIGIN}/webhooks/x",
        "email": "push@project.iam.gserviceaccount.com",
        "email_verified": True,
        "iat": int(now),
        "exp": int(now) + 3600,
    }
    token = write_token(claims, "RS256", pem_of(rsa_key(key)).encode(), kid)
    return request({"Authorization": f"Bearer {token}"})


@respx.mock
async def test_a_new_key_of_googles_is_fetched_once_and_the_old_one_kept() -> None:
    scheme = PubSubVerifier()
    account = [b"push@project.iam.gserviceaccount.com"]
    old, new = rsa_jwk(0, kid="old"), rsa_jwk(1, kid="new")
    route = respx.get(CERTIFICATES)
    route.mock(return_value=httpx.Response(200, json={"keys": [old]}))
    together = [verified(scheme, from_google("old", 0), account) for _ in range(20)]
    await asyncio.gather(*together)
    assert route.call_count == 1
    # A flood of names that there are not: once a minute, whatever comes.
    for number in range(100):
        await is_refused(scheme, from_google(f"no-{number}", 1), account, NOW + MINUTE + 1)
    assert route.call_count == 2
    route.mock(return_value=httpx.Response(200, json={"keys": [old, new]}))
    later = NOW + 2 * MINUTE + 2
    for kid, key in (("new", 1), ("new", 1), ("old", 0)):
        await verified(scheme, from_google(kid, key, later), account, later)
    assert route.call_count == 3
    await is_refused(scheme, from_google("new", 0, later), account, later)


APP, TENANT = "c1d5a3a0-0000-4000-8000-000000000001", "84bd8158-6d4d-4958-8b9f-9d6445542f95"


def from_graph(state: str = "word", key: int = 0, kid: str = "k1", **changes: Any) -> RawRequest:
    claims = {
        "iss": f"https://login.microsoftonline.com/{TENANT}/v2.0",
        "aud": APP,
        "azp": PUBLISHER,
        "tid": TENANT,
        "exp": int(NOW) + 3600,
        **changes,
    }
    token = write_token(claims, "RS256", pem_of(rsa_key(key)).encode(), kid)
    item = {"clientState": state, "changeType": "created", "encryptedContent": {"data": "x"}}
    return request(body=json_of({"value": [item], "validationTokens": [token]}).encode())


@respx.mock
async def test_graphs_tokens_are_microsofts_for_this_application() -> None:
    route = respx.get(KEYS)
    route.mock(return_value=httpx.Response(200, json={"keys": [rsa_jwk(0, kid="k1")]}))
    scheme, word = GraphVerifier(app_id=APP), [b"word"]
    assert await is_refused(scheme, from_graph("other"), word) == "token-mismatch"
    assert await is_refused(scheme, from_graph(aud="another"), word) == "keys-unavailable"
    assert route.call_count == 0  # who knows no word, or is for another, causes no fetch
    assert (await verified(scheme, from_graph(), word)).event_type == "created"
    for reason, given in (
        ("audience-mismatch", from_graph(aud="another")),
        ("issuer-mismatch", from_graph(iss="https://evil.example/")),
        ("issuer-mismatch", from_graph(tid="../x")),
        ("publisher-mismatch", from_graph(azp="another")),
        ("timestamp-stale", from_graph(exp=int(NOW) - 61)),
        ("signature-mismatch", from_graph(key=1)),
    ):
        assert await is_refused(scheme, given, word) == reason
    bare = json.loads(from_graph().body)
    del bare["validationTokens"]
    assert await is_refused(scheme, request(body=json_of(bare).encode()), word) == "token-missing"
    assert route.call_count == 1
    both = {"keys": [rsa_jwk(0, kid="k1"), rsa_jwk(1, kid="k2")]}
    route.mock(return_value=httpx.Response(200, json=both))
    await verified(scheme, from_graph(key=1, kid="k2"), word, NOW + MINUTE + 1)
    await verified(scheme, from_graph(), word, NOW + MINUTE + 1)
    assert route.call_count == 2


@cache
def chain(host: str = "webhooks.paypal.com") -> tuple[bytes, bytes]:
    """Return a certificate for a host, and the root that has signed it."""
    moment = datetime.fromtimestamp(NOW, UTC)
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    root_key, key = rsa_key(2), rsa_key(0)

    def begun(public: Any, serial: int) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .issuer_name(root_name)
            .public_key(public)
            .serial_number(serial)
            .not_valid_before(moment - timedelta(days=1))
            .not_valid_after(moment + timedelta(days=1))
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), False
            )
        )

    usage = {
        "digital_signature": True, "content_commitment": False, "key_encipherment": False,
        "data_encipherment": False, "key_agreement": False, "key_cert_sign": True,
        "crl_sign": True, "encipher_only": False, "decipher_only": False,
    }  # fmt: skip
    identity = x509.SubjectKeyIdentifier.from_public_key(root_key.public_key())
    root = (
        begun(root_key.public_key(), 1)
        .subject_name(root_name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(identity, critical=False)
        .sign(root_key, hashes.SHA256())
    )
    leaf = (
        begun(key.public_key(), 2)
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return leaf.public_bytes(pem), root.public_bytes(pem)


def from_paypal(url: str = PAYPAL, key: int = 0) -> RawRequest:
    secret = f"WH-1 {pem_of(rsa_key(key))}".encode()
    made = signed(PayPalVerifier(), request(), secret)
    kept = [header for header in made.headers if header[0] != b"paypal-cert-url"]
    headers = [*kept, (b"paypal-cert-url", url.encode())]
    return RawRequest(made.method, made.path, headers, made.body, origin=ORIGIN)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # one of the usual roots has none
@respx.mock
async def test_paypals_certificate_is_its_own_and_ends_at_a_root() -> None:
    leaf, root = chain()
    route = respx.get(PAYPAL)
    route.mock(return_value=httpx.Response(200, content=leaf))
    scheme = PayPalVerifier(roots=root)
    together = [verified(scheme, from_paypal(), [b"WH-1"]) for _ in range(20)]
    assert {one.signed for one in await asyncio.gather(*together)} == {BODY}
    assert route.call_count == 1
    assert await is_refused(scheme, from_paypal(key=1), [b"WH-1"]) == "signature-mismatch"
    assert await is_refused(scheme, from_paypal(), [b"WH-2"]) == "signature-mismatch"
    # The usual roots have not signed it; nor is another's certificate PayPal's.
    assert await is_refused(PayPalVerifier(), from_paypal(), [b"WH-1"]) == "certificate-untrusted"
    other, its_root = chain("evil.example")
    route.mock(return_value=httpx.Response(200, content=other))
    scheme = PayPalVerifier(roots=its_root)
    assert await is_refused(scheme, from_paypal(), [b"WH-1"]) == "certificate-untrusted"


@pytest.mark.parametrize(
    "url",
    [
        "http://api.paypal.com/x",
        "https://evil.example/x",
        "https://api.paypal.com.evil.example/x",
        "https://api.paypal.com@evil.example/x",
        "https://evil.example#api.paypal.com/x",
        "https://api.paypal.com:444/x",
        "https://api.paypal.com/x?y=1",
        "https://api.paypal.com\\@evil.example/x",
        "file:///etc/passwd",
        "//api.paypal.com/x",
    ],
)
@respx.mock
async def test_no_other_host_is_asked_for_paypals_certificate(url: str) -> None:
    everything = respx.route().mock(return_value=httpx.Response(200, content=chain()[0]))
    scheme = PayPalVerifier(roots=chain()[1])
    assert await is_refused(scheme, from_paypal(url), [b"WH-1"]) == "certificate-url"
    assert everything.call_count == 0
