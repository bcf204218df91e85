"""What attackers send to a webhook edge, as bytes, and what they must be told.

Each is one connection of its own. What must be told is the statuses of all answers until the server
closes the connection; no attack may be answered by more.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import hmac
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

SECRET = "whsec_attacked"
BODY = b'{"cents":5}'
ANSWER_SECONDS = 10.0

JOBS = """
from netscript_workers import JobContext, job

@job(id="charge")
async def charge(ctx: JobContext) -> None: ...
"""

TRIGGERS = """
from netscript_triggers import define_webhook, enqueue_job

def pay(event):
    return [enqueue_job("charge", {"cents": 5})]

def nothing(event):
    return None

def hook(name, handler=nothing, **options):
    known = {"path": "/webhooks/" + name, "secret_env": "EDGE_SECRET", "dedupe": None}
    return define_webhook(handler, id=name, verifier="hmac-sha256", **{**known, **options})

payment = hook("payment", pay)
small = hook("small", max_body=100)
zipped = hook("zipped", decompress=True)
form = hook("form", parse="form")
raw = hook("raw", parse="raw")
events = hook("events", parse="cloudevents")
listed = hook("listed", allow_ips=["203.0.113.0/24"])
paced = hook("paced", rate="2/h")
unset = hook("unset", secret_env="EDGE_MISSING")

def secret_of(request):
    return {"acme": "EDGE_SECRET"}[request.path_params["tenant"]]

tenants = hook("of", path="/webhooks/of/{tenant}", secret_env=secret_of)
"""


@dataclass(frozen=True)
class Attack:
    """Bytes, and the statuses that answer them; `pieces` are sent one after the other."""

    name: str
    pieces: tuple[bytes, ...]
    told: tuple[tuple[int, ...], ...]


def signed(body: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def request(
    body: bytes = BODY,
    *more: str,
    path: str = "/webhooks/payment",
    method: str = "POST",
    length: int | None = None,
    sign: bytes | None = None,
    kind: str = "application/json",
    close: bool = True,
) -> bytes:
    """Write a signed request, the last one of its connection; `length` may lie."""
    head = [
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        f"Content-Type: {kind}",
        f"X-NetScript-Signature: {signed(body if sign is None else sign)}",
        f"Content-Length: {len(body) if length is None else length}",
        *more,
    ]
    if close:
        head.append("Connection: close")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def chunked(*chunks: bytes, body: bytes | None = None, end: bytes = b"0\r\n\r\n") -> bytes:
    """Write a signed request whose body comes as these chunks, framing included."""
    signature = signed(BODY if body is None else body)
    head = (
        "POST /webhooks/payment HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"X-NetScript-Signature: {signature}\r\nTransfer-Encoding: chunked\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + b"".join(chunks) + end


def chunk(data: bytes, size: int | None = None) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data) if size is None else size, data)


_HEAD = b"POST /webhooks/payment HTTP/1.1\r\nHost: localhost\r\n"
_NEXT = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
_KEPT = BODY + b" " * 1000

SMUGGLING = (
    ("a length beside chunks", b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("chunks beside a length", b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"),
    ("two lengths", b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n"),
    ("one length twice", b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n"),
    ("a list of lengths", b"Content-Length: 0, 0\r\n\r\n"),
    ("a length with a sign", b"Content-Length: +0\r\n\r\n"),
    ("a negative length", b"Content-Length: -1\r\n\r\n"),
    ("a length in hex", b"Content-Length: 0x0\r\n\r\n"),
    ("a length without end", b"Content-Length: " + b"9" * 40 + b"\r\n\r\n"),
    ("bare line feeds", b"Content-Length: 0\n\n"),
    ("a bare carriage return", b"X: a\rContent-Length: 0\r\n\r\n"),
    ("a folded line", b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n"),
    ("a blank before a colon", b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("a header without a name", b": x\r\nContent-Length: 0\r\n\r\n"),
    ("a NUL in a header", b"X: a\0b\r\nContent-Length: 0\r\n\r\n"),
    ("another transfer encoding", b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("two transfer encodings", b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("chunked twice", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("identity", b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n"),
    ("a trailer", b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Sig: 1\r\n\r\n"),
    ("a negative chunk", b"Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n"),
    ("a chunk's line feed", b"Transfer-Encoding: chunked\r\n\r\n1\nx\n0\n\n"),
    ("a chunk without end", b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 20 + b"\r\n"),
    ("a chunk that is longer", b"Transfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n0\r\n\r\n"),
    ("two hosts", b"Host: other\r\nContent-Length: 0\r\n\r\n"),
)  # fmt: skip

MANY_HEADERS = tuple(f"X-{number}: 1" for number in range(200))


def _connection() -> list[Attack]:
    """Attacks on how requests are told apart."""
    told = ((400,),)
    smuggled = [Attack(name, (_HEAD + rest + _NEXT,), told) for name, rest in SMUGGLING]
    extension = b"1;" + b"x" * 200_000 + b"\r\nx\r\n0\r\n\r\n"
    return [
        *smuggled,
        Attack("no host", (b"GET /health HTTP/1.1\r\n\r\n" + _NEXT,), told),
        Attack("an old version", (b"GET /health\r\n\r\n" + _NEXT,), told),
        Attack("a new version", (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n" + _NEXT,), told),
        Attack("HTTP/2", (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _NEXT,), told),
        Attack("chunks of HTTP/1.0",
               (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + _NEXT,), told),
        Attack("a fragment", (request(path="/webhooks/payment#x") + _NEXT,), told),
        Attack("a method in lower case", (request(method="post") + _NEXT,), told),
        Attack("no HTTP at all", (b"\x16\x03\x01\x02\x00\x01\x00" + b"x" * 300,), told),
        Attack("a tunnel", (b"CONNECT a:80 HTTP/1.1\r\nHost: x\r\n\r\n" + _NEXT,), told),
        Attack("another protocol", (_NEXT[:-2] + b"Upgrade: h2c\r\nConnection: upgrade\r\n\r\n"
               + _NEXT,), ((200,),)),
        Attack("another protocol with a body", (request(BODY, "Upgrade: h2c", "Connection: upgrade",
               close=False) + _NEXT,), told),
        Attack("after the last request", (request() + _NEXT,), ((202,),)),
        Attack("a megabyte of header",
               (_HEAD + b"X: ", *[b"x" * 65_536] * 16, b"\r\n\r\n"), ((431,),)),
        Attack("a long header in one piece", (request(BODY, "X: " + "x" * 40_000),), ((431,),)),
        Attack("a long target", (request(path="/" + "x" * 40_000),), ((431,),)),
        Attack("two hundred headers", (request(BODY, *MANY_HEADERS),), ((431,),)),
        Attack("a long chunk extension", (chunked(extension[:100_000], end=b""),
               extension[100_000:]), ((400,),)),
        Attack("a long trailer", (chunked(chunk(BODY), end=b"0\r\nX: "), *[b"x" * 65_536] * 4),
               ((400,),)),
        Attack("malformed after a good one",
               (request(close=False) + _HEAD + b"Content-Length: x\r\n\r\n" + _NEXT,),
               ((202, 400),)),
        Attack("a thousand at once", (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000,),
               (((200,) * 33 + (400,)),)),
    ]  # fmt: skip


def _sizes() -> list[Attack]:
    """Attacks with bodies that are too large, too short, or not what they say."""
    bomb = gzip.compress(b" " * 20_000_000)
    small, zipped = "/webhooks/small", "/webhooks/zipped"
    encoded = "Content-Encoding: gzip"
    good = gzip.compress(BODY)
    return [
        Attack("a declared gigabyte", (request(length=10**9),), ((413,),)),
        Attack("a declared body over the limit", (request(_KEPT, path=small),), ((413,),)),
        Attack("a streamed body over the limit",
               (chunked(*[chunk(b"x" * 60_000)] * 40),), ((413,),)),
        Attack("a truncated body is not verified",
               (chunked(chunk(BODY), chunk(b" " * 1_100_000)),), ((413,),)),
        Attack("less than declared", (request(length=50),), ((), (408,))),
        Attack("compressed, unasked", (request(good, encoded),), ((415,),)),
        Attack("a compression nobody knows", (request(good, "Content-Encoding: br", path=zipped),),
               ((415,),)),
        Attack("compressed twice", (request(good, "Content-Encoding: gzip, gzip", path=zipped),),
               ((415,),)),
        Attack("two headers of compression",
               (request(good, encoded, encoded, path=zipped),), ((415,),)),
        Attack("a bomb", (request(bomb, encoded, path=zipped),), ((413,),)),
        Attack("something behind the compressed", (request(good + b"x", encoded, path=zipped),),
               ((400,),)),
        Attack("a compressed body that breaks off", (request(good[:-3], encoded, path=zipped),),
               ((400,),)),
        Attack("not compressed at all", (request(BODY, encoded, path=zipped),), ((400,),)),
        Attack("compressed and taken", (request(good, encoded, path=zipped),), ((202,),)),
        Attack("deflated and taken", (request(zlib.compress(BODY), "Content-Encoding: deflate",
               path=zipped),), ((202,),)),
    ]  # fmt: skip


def _json() -> list[Attack]:
    """Signed bodies that are made to hurt a parser."""
    refused = {
        "a byte order mark": b"\xef\xbb\xbf{}",
        "UTF-16": '{"a":1}'.encode("utf-16"),
        "no UTF-8": b'{"a":"\xff"}',
        "UTF-8 of a surrogate": b'{"a":"\xed\xa0\x80"}',
        "depth": b"[" * 500 + b"]" * 500,
        "depth without end": b'{"a":' * 200_000,
        "NaN": b'{"a":NaN}',
        "an infinity": b'{"a":-Infinity}',
        "a huge float": b'{"a":1e999}',
        "a key twice": b'{"a":1,"a":2}',
        "an escaped key twice": b'{"a":1,"\\u0061":2}',
        "200,000 digits": b'{"a":' + b"9" * 200_000 + b"}",
        "something behind": b"{} {}",
        "a NUL behind": b"{}\0",
        "an empty body": b"",
        "a comment": b"{} // x",
    }
    taken = {
        "50,000 keys": json.dumps({f"key-{number}": number for number in range(50_000)}).encode(),
        "keys that hashed alike once": json.dumps(
            {f"{first}{second}": 1 for first in ("Aa", "BB") for second in range(10_000)}
        ).encode(),
        "a lone surrogate": b'{"a":"\\ud800"}',
        "an escaped NUL": b'{"a":"\\u0000"}',
        "many small objects": b"[" + b"{}," * 300_000 + b"{}]",
    }
    return [
        *[Attack(name, (request(body),), ((400,),)) for name, body in refused.items()],
        *[Attack(name, (request(body),), ((202,),)) for name, body in taken.items()],
    ]


def _paths() -> list[Attack]:
    """Other ways to say a path or a method."""
    elsewhere = (
        "/webhooks/payment/", "//webhooks/payment", "/webhooks//payment", "/webhooks/./payment",
        "/webhooks/x/../payment", "/webhooks/%70ayment", "/webhooks%2fpayment",
        "/WEBHOOKS/payment", "/webhooks/payment%00", "/webhooks/payment;x",
        "/webhooks/of/", "/webhooks/of/a/b", "/webhooks/of/%2e%2e", "/webhooks/of/a%2Fb",
        "/webhooks/of/a%00", "/webhooks/of/%ff", "/webhooks/of/%zz", "/webhooks/of/" + "a" * 200,
    )  # fmt: skip
    methods = ("GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE")
    override = "X-HTTP-Method-Override: POST"
    return [
        *[Attack(f"at {path}", (request(path=path),), ((404,),)) for path in elsewhere],
        *[Attack(f"by {method}", (request(BODY, override, method=method),), ((405,),))
          for method in methods],
        Attack("with a query", (request(path="/webhooks/payment?x=1"),), ((202,),)),
        Attack("of another host", (request(path="http://other/webhooks/payment"),), ((202,),)),
        Attack("a tenant that there is", (request(path="/webhooks/of/acme"),), ((202,),)),
        Attack("a tenant, encoded", (request(path="/webhooks/of/%61cme"),), ((202,),)),
        Attack("a tenant that there is not", (request(path="/webhooks/of/other"),), ((401,),)),
        Attack("from elsewhere", (request(path="/webhooks/listed"),), ((403,),)),
        Attack("from elsewhere, as it says",
               (request(BODY, "X-Forwarded-For: 203.0.113.1", path="/webhooks/listed"),),
               ((403,),)),
    ]  # fmt: skip


def _proofs() -> list[Attack]:
    """Signatures that are wrong, and kinds of bodies that are not taken."""
    twice = f"X-NetScript-Signature: {signed(BODY)}"
    wrong = request(BODY, sign=b"other")
    return [
        Attack("a wrong signature", (wrong,), ((401,),)),
        Attack("the signature twice", (request(BODY, twice),), ((401,),)),
        Attack("the id twice", (request(BODY, "Idempotency-Key: a", "Idempotency-Key: b"),),
               ((401,),)),
        Attack("no ASCII in a signature",
               (wrong.replace(b"X-NetScript-Signature: ", b"X-NetScript-Signature: \xff"),),
               ((401,),)),
        Attack("no secret", (request(path="/webhooks/unset"),), ((401,),)),
        Attack("other bytes than were signed", (request(b'{"cents": 5}', sign=BODY),), ((401,),)),
        Attack("a log's next line", (request(BODY, "X-Kind: a\x0bb%0d%0aINFO"),), ((400,),)),
        Attack("text", (request(kind="text/plain"),), ((415,),)),
        Attack("a form for JSON", (request(kind="application/x-www-form-urlencoded"),), ((415,),)),
        Attack("two kinds", (request(BODY, "Content-Type: text/plain"),), ((415,),)),
        Attack("many fields", (request(b"a&" * 20_000, path="/webhooks/form",
               kind="application/x-www-form-urlencoded"),), ((400,),)),
        Attack("a form that is no UTF-8", (request(b"a=%ff", path="/webhooks/form",
               kind="application/x-www-form-urlencoded"),), ((400,),)),
        Attack("XML as it is", (request(b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>",
               path="/webhooks/raw", kind="text/xml"),), ((202,),)),
        Attack("a batch of events", (request(b"[]", path="/webhooks/events",
               kind="application/cloudevents-batch+json"),), ((415,),)),
    ]  # fmt: skip


QUICK: Sequence[Attack] = (*_connection(), *_sizes(), *_json(), *_paths(), *_proofs())
NOT_STORED = frozenset({400, 401, 403, 404, 405, 408, 413, 415, 431})


async def attack(port: int, one: Attack) -> tuple[int, ...]:
    """Send an attack; return the statuses of what was answered until the server closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in one.pieces:
            writer.write(piece)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        if one.name == "less than declared":
            writer.write_eof()
        return await statuses(reader)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def statuses(reader: asyncio.StreamReader) -> tuple[int, ...]:
    """Read until the other side closes; return the status of each answer."""
    told = bytearray()
    async with asyncio.timeout(ANSWER_SECONDS):
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(65_536):
                told += part
    lines = bytes(told).split(b"HTTP/1.1 ")[1:]
    return tuple(int(line[:3]) for line in lines)
