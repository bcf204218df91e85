"""HTTP Message Signatures (RFC 9421), with Content-Digest (RFC 9530)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, TypeVar, cast

from netscript_triggers.verifiers import RawRequest, Scheme, Signed, Verified
from netscript_triggers.verifiers.keyfiles import Malformed
from netscript_triggers.verifiers.keys import Ecdsa, Ed25519, Key, Mac, Rsa, check, prove
from netscript_triggers.verifiers.reading import as_text, check_time, find, peek
from netscript_workers.errors import ConfigurationError, VerificationError

T = TypeVar("T")

HttpAlgorithm: TypeAlias = Literal[
    "hmac-sha256",
    "ed25519",
    "ecdsa-p256-sha256",
    "ecdsa-p384-sha384",
    "rsa-pss-sha512",
    "rsa-v1_5-sha256",
]
KEYS: Mapping[str, Key] = {
    "hmac-sha256": Mac(form="base64"),
    "ed25519": Ed25519(),
    "ecdsa-p256-sha256": Ecdsa(raw=True),
    "ecdsa-p384-sha384": Ecdsa("P-384", raw=True),
    "rsa-pss-sha512": Rsa("pss-sha512"),
    "rsa-v1_5-sha256": Rsa("pkcs1-sha256"),
}
REQUIRED = ("@method", "@target-uri", "content-digest")

_INPUT, _SIGNATURE, _DIGEST = b"signature-input", b"signature", b"content-digest"
_MAX_LABELS = 8
_MAX_VALUE = 8192
# What RFC 8941 would write: one way only, so that what is signed is the text as it came.
_KEY = r"[a-z*][a-z0-9_.*-]*"
_STRING = r'"(?:[ !#-\[\]-~]|\\["\\])*"'
_LIST = rf"\((?:{_STRING}(?: {_STRING})*)?\)"
_VALUE = rf"(?:-?[0-9]{{1,15}}|{_STRING}|:[A-Za-z0-9+/=]*:|\?[01]|[A-Za-z*][!-+\-./0-:A-Z^-z|~]*)"
_MEMBER = re.compile(rf"({_KEY})=({_LIST}((?:;{_KEY}(?:={_VALUE})?)*))(?:[ \t]*,[ \t]*|$)")
_PARAMETER = re.compile(rf";({_KEY})(?:=({_VALUE}))?")
_NAME = re.compile(r"@?[a-z0-9!#$%&'*+.^_`|~-]+")
_BYTES = re.compile(rf"({_KEY})=:([A-Za-z0-9+/=]*):(?:[ \t]*,[ \t]*|$)")
_DIGESTS: Mapping[str, Callable[[bytes], bytes]] = {
    "sha-256": lambda body: hashlib.sha256(body).digest(),
    "sha-512": lambda body: hashlib.sha512(body).digest(),
}


@dataclass(frozen=True, slots=True)
class _Input:
    components: tuple[str, ...]
    parameters: Mapping[str, str]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSignatureVerifier(Scheme):
    """Checks a signature of the components that are required here, whatever else it covers.

    Attributes:
        algorithm: The only one that is taken, whatever the request names.
        components: Those that must be covered.
        keyid: The key's name, if it must be this one.
        tag: The application's, if it must be this one.
        tolerance: Seconds that `created`, which must be there, may be off; None does not look.
    """

    algorithm: HttpAlgorithm = "hmac-sha256"
    components: tuple[str, ...] = REQUIRED
    keyid: str = ""
    tag: str = ""
    tolerance: float | None = 300
    name: str = "http-message-signatures"
    source: str = "https://www.rfc-editor.org/rfc/rfc9421"
    private_headers: frozenset[str] = frozenset({"signature"})

    def __post_init__(self) -> None:
        """Refuse what can't verify anything."""
        if self.algorithm not in KEYS:
            raise ConfigurationError(
                f"{self.name}: the algorithm {self.algorithm!r} is not known.",
                hint=f"Use one of {', '.join(KEYS)}.",
            )
        given: object = self.components
        if isinstance(given, str) or not all(map(_NAME.fullmatch, self.components)):
            raise ConfigurationError(f"{self.name}: components={given!r} can't be used.")
        if not self.components:
            raise ConfigurationError(f"{self.name}: at least one component must be covered.")

    @property
    def needs_url(self) -> bool:
        """Whether a part of the URL is required that `Host` would have to tell."""
        return not {"@target-uri", "@authority", "@scheme"}.isdisjoint(self.components)

    @property
    def signs_time(self) -> bool:
        """Always."""
        return True

    @property
    def _key(self) -> Key:
        return KEYS[self.algorithm]

    def with_tolerance(self, seconds: float) -> HttpSignatureVerifier:
        """Return the same with another tolerance."""
        return replace(self, tolerance=seconds)

    def check_secret(self, secret: bytes) -> None:
        """Refuse what is no key of the algorithm."""
        check(self._key, self.name, secret)

    def verify(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> Verified:
        """Check the first signature that is of the kind that is asked for.

        Raises:
            VerificationError: There is none, something is repeated or malformed, or it is wrong.
        """
        if not any(secrets):
            raise VerificationError("secret-missing")
        signatures = dict(_signatures(_needed(request, _SIGNATURE)))
        inputs = _inputs(_needed(request, _INPUT))
        fit = [(label, one) for label, one in inputs if label in signatures and self._fits(one)]
        if not fit:
            raise VerificationError("signature-unfit")
        label, chosen = fit[0]
        signature = signatures[label]
        if not signature or (self._key.size is not None and len(signature) != self._key.size):
            raise VerificationError("signature-malformed")
        prove(self._key, _base(request, chosen), [signature], secrets)
        self._check_times(chosen, now)
        covers_body = "content-digest" in chosen.components
        if covers_body:
            _check_digest(request)
        nonce = chosen.parameters.get("nonce")
        kind = as_text(find(peek(request), ("type",))) if covers_body else None
        return Verified(
            signed=request.body if covers_body else _base(request, chosen),
            delivery_id=nonce and _unquoted(nonce),
            id_signed=True,
            event_type=kind and kind[:200],
            type_signed=kind is not None,
        )

    def sign_request(self, request: RawRequest, secret: bytes, now: float) -> Signed:
        """Sign the required components; those that are fields must be in the request."""
        headers: dict[str, str] = {}
        if "content-digest" in self.components:
            digest = base64.b64encode(hashlib.sha256(request.body).digest()).decode()
            headers["Content-Digest"] = f"sha-256=:{digest}:"
        more = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        request = RawRequest(
            request.method,
            request.path,
            [*request.headers, *more],
            request.body,
            request.query,
            request.raw_path,
            request.origin,
        )
        listed = " ".join(f'"{name}"' for name in self.components)
        text = f"({listed});created={int(now)}"
        text += f';keyid="{self.keyid}"' if self.keyid else ""
        text += f';tag="{self.tag}"' if self.tag else ""
        try:
            made = self._key.sign(_base(request, _Input(self.components, {}, text)), secret)
        except Malformed as error:
            raise ConfigurationError(f"{self.name} can't sign with this secret: {error}.") from None
        headers["Signature-Input"] = f"sig1={text}"
        headers["Signature"] = f"sig1=:{base64.b64encode(made).decode()}:"
        return Signed(headers, request.body, request.query)

    def _fits(self, one: _Input) -> bool:
        given = one.parameters
        return (
            set(self.components) <= set(one.components)
            and (not self.keyid or _unquoted(given.get("keyid", "")) == self.keyid)
            and (not self.tag or _unquoted(given.get("tag", "")) == self.tag)
            and _unquoted(given.get("alg", f'"{self.algorithm}"')) == self.algorithm
        )

    def _check_times(self, chosen: _Input, now: float) -> None:
        created, expires = (_seconds(chosen, name) for name in ("created", "expires"))
        if self.tolerance is not None:
            if created is None:
                raise VerificationError("timestamp-missing")
            check_time(created, now, self.tolerance)
        if expires is not None and now > expires:
            raise VerificationError("timestamp-stale")


def _needed(request: RawRequest, name: bytes) -> str:
    value = request.header((name,))
    if value is None:
        raise VerificationError("signature-missing")
    if len(value) > _MAX_VALUE or not value.isascii():
        raise VerificationError("signature-malformed")
    return value.decode("ascii")


def _inputs(text: str) -> list[tuple[str, _Input]]:
    found: list[tuple[str, _Input]] = []
    place = 0
    while place < len(text):
        member = _MEMBER.match(text, place)
        if member is None or len(found) == _MAX_LABELS:
            raise VerificationError("signature-malformed")
        label, value, tail = member.groups()
        given = _PARAMETER.findall(tail)
        names = [name for name, _ in given]
        listed = value[1 : value.index(")")].split(" ") if value[1] != ")" else []
        components = tuple(item[1:-1] for item in listed)
        if len(set(names)) < len(names) or len(set(components)) < len(components):
            raise VerificationError("signature-malformed")
        if not all(map(_NAME.fullmatch, components)):
            raise VerificationError("component-unknown")
        found.append((label, _Input(components, dict(given), value)))
        place = member.end()
    return _once(found)


def _signatures(text: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    place = 0
    while place < len(text):
        member = _BYTES.match(text, place)
        if member is None or len(found) == _MAX_LABELS:
            raise VerificationError("signature-malformed")
        try:
            found.append((member[1], base64.b64decode(member[2], validate=True)))
        except binascii.Error:
            raise VerificationError("signature-malformed") from None
        place = member.end()
    return _once(found)


def _once(found: list[tuple[str, T]]) -> list[tuple[str, T]]:
    if len(dict(found)) < len(found):
        raise VerificationError("label-repeated")
    return found


def _base(request: RawRequest, chosen: _Input) -> bytes:
    """Return the signature base (RFC 9421, section 2.5)."""
    lines = [
        b'"' + name.encode() + b'": ' + _component(request, name) for name in chosen.components
    ]
    lines.append(b'"@signature-params": ' + chosen.text.encode())
    return b"\n".join(lines)


def _component(request: RawRequest, name: str) -> bytes:
    if name.startswith("@"):
        derive = _DERIVED.get(name)
        if derive is None:
            raise VerificationError("component-unknown")
        return derive(request)
    values = [value.strip() for given, value in request.headers if given == name.encode()]
    if not values:
        raise VerificationError("component-missing")
    return b", ".join(values)


def _scheme(request: RawRequest) -> bytes:
    return request.url.partition(b"://")[0].lower()


def _authority(request: RawRequest) -> bytes:
    scheme, _, rest = request.url.partition(b"://")
    host = rest.partition(b"/")[0].lower()
    return host.removesuffix(b":443" if scheme.lower() == b"https" else b":80")


def _path(request: RawRequest) -> bytes:
    if not request.origin:
        return request.raw_path or request.path.encode()
    rest = request.url.partition(b"://")[2].partition(b"?")[0]
    return b"/" + rest.partition(b"/")[2]


_DERIVED: Mapping[str, Callable[[RawRequest], bytes]] = {
    "@method": lambda request: request.method.encode(),
    "@target-uri": lambda request: request.url,
    "@authority": _authority,
    "@scheme": _scheme,
    "@path": _path,
    "@query": lambda request: b"?" + request.query,
    "@request-target": lambda request: (
        _path(request) + (b"?" + request.query if request.query else b"")
    ),
}


def _check_digest(request: RawRequest) -> None:
    """Compare every digest of a known algorithm; one at least must be there.

    Raises:
        VerificationError: One differs, or there is none.
    """
    known = 0
    for name, digest in _signatures(_needed(request, _DIGEST)):
        if name in _DIGESTS:
            known += 1
            if not hmac.compare_digest(_DIGESTS[name](request.body), digest):
                raise VerificationError("body-hash-mismatch")
    if not known:
        raise VerificationError("body-hash-mismatch")


def _seconds(chosen: _Input, name: str) -> int | None:
    value = chosen.parameters.get(name)
    if value is None:
        return None
    if not value.isdigit():
        raise VerificationError("timestamp-malformed")
    return int(value)


def _unquoted(text: str) -> str:
    """Read a string; another kind of value is no string, and equal to none."""
    if len(text) < 2 or text[0] != '"':
        return ""
    return re.sub(r'\\(["\\])', r"\1", text[1:-1])


MESSAGE_SIGNATURES = (
    HttpSignatureVerifier(),
    *(
        HttpSignatureVerifier(
            algorithm=cast("HttpAlgorithm", algorithm), name=f"http-message-signatures-{algorithm}"
        )
        for algorithm in KEYS
        if algorithm != "hmac-sha256"
    ),
)
