"""Who may use the API: every route with every kind of caller, and what pages of others send."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import APIRouter

from netscript_workers.api import authentication, sessions
from netscript_workers.api.access import ROUTES, AccessTable, listed
from netscript_workers.api.app import Doors, create_app
from netscript_workers.api.services import Services
from netscript_workers.errors import ConfigurationError
from netscript_workers.ids import new_id
from netscript_workers.store import definitions
from netscript_workers.store.audit import list_audit
from netscript_workers.store.definitions import StoredCatalog
from netscript_workers.store.engine import Store
from netscript_workers.store.writer import Writer
from netscript_workers.streaming.feed import Feed
from netscript_workers.tokens import Role, parse_tokens
from tests.integration.test_api import BASE, PAYLOAD, problem, process_payment, serving
from tests.kit import new, put, scalar

TOKENS = {role: f"{role}-geheim-geheim-geheim" for role in Role}
WRONG = "falsch-geheim-geheim-geheim"
HOST = "netscript.example"
TRIGGER = f"{BASE}/jobs/process-payment/trigger"


def doors(**more: Any) -> Doors:
    tokens = parse_tokens([f"{role}-er:{role}:{TOKENS[role]}" for role in Role])
    return Doors(tokens=tokens, **more)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@contextlib.asynccontextmanager
async def guarded(store: Store, **more: Any) -> AsyncGenerator[httpx.AsyncClient]:
    definitions.register(store, [process_payment])
    async with serving(store, process_payment, host=HOST, doors=doors(**more)) as client:
        yield client


@pytest.fixture
async def api(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    async with guarded(store) as client:
        yield client


def deeds(store: Store) -> list[tuple[str, str, str | None, str | None]]:
    with store.read() as conn:
        page = list_audit(conn, limit=100)
    return [(one.who, one.action, one.subject, one.reason) for one in reversed(page.entries)]


def request_of(method: str, path: str) -> tuple[str, str]:
    return method, re.sub(r"\{[a-z_:]+\}", "nothing", path)


async def log_in(client: httpx.AsyncClient, token: str, **headers: str) -> httpx.Response:
    page = await client.get("/login")
    field = re.search(r'name="form_token" value="([^"]+)"', page.text)
    assert field is not None
    form = {"form_token": field[1], "token": token}
    return await client.post("/login", data=form, headers=headers)


# The table.


@pytest.mark.parametrize("caller", ["nobody", "wrong", *Role])
async def test_every_route_asks_for_its_role(
    store: Store, caller: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "MAX_FAILURES", 10_000)
    headers = bearer(TOKENS[Role(caller)] if caller in set(Role) else WRONG)
    if caller == "nobody":
        headers = {}
    async with guarded(store) as client:
        transport: Any = client._transport
        transport.app.state.services.feed.end()  # a stream goes on for ever
        served = list(listed(transport.app.routes))
        assert set(served) <= ROUTES.keys()
        assert len(served) > 30
        for method, path in served:
            answer = await client.request(*request_of(method, path), headers=headers)
            role = ROUTES[method, path].role
            where = f"{method} {path}: {answer.text}"
            if role is None:
                # The form to log in has one of its own.
                assert answer.status_code not in (401, 429), where
            elif caller == "nobody":
                assert problem(answer, 401, "unauthorized"), where
                assert answer.headers["www-authenticate"] == 'Bearer realm="netscript"'
            elif caller == "wrong":
                assert problem(answer, 401, "unauthorized"), where
                assert 'error="invalid_token"' in answer.headers["www-authenticate"]
            elif Role(caller).may(role):
                assert answer.status_code in (200, 202, 303, 404, 409, 422), where
            else:
                told = problem(answer, 403, "insufficient-scope")
                assert (told["role"], told["required_role"]) == (caller, role), where
                assert f'scope="{role}"' in answer.headers["www-authenticate"]


def test_reads_need_read_and_changes_more() -> None:
    for (method, path), access in ROUTES.items():
        if access.role is None:
            assert path.startswith(("/health", "/login"))
        elif method != "GET" and path != "/logout":
            assert access.role.may(Role.OPERATE), path
            assert access.action, path
    admins = {path for (_, path), access in ROUTES.items() if access.role is Role.ADMIN}
    assert admins == {f"{BASE}/seed", "/api/v1/audit"}


async def test_a_route_that_the_table_lacks_keeps_the_app_from_starting(store: Store) -> None:
    services = Services(
        store=store,
        writer=Writer(store),
        catalog=StoredCatalog(store, {}),
        jobs={},
        version="1",
        ring=lambda: None,
        feed=Feed(store),
    )
    more = APIRouter(prefix="/api/v1")

    @more.delete("/everything", include_in_schema=False)
    def delete() -> None: ...

    outer = APIRouter()
    outer.include_router(more)
    with pytest.raises(ConfigurationError, match="may use DELETE /api/v1/everything"):
        create_app(services, [outer])


def test_what_several_routes_match_needs_the_highest_role() -> None:
    table = AccessTable()
    assert table.find("POST", f"{BASE}/seed").access == ROUTES["POST", f"{BASE}/seed"]
    found = table.find("POST", f"{BASE}/topics/a/b\n/pause")
    assert (found.access, found.subject) == (
        ROUTES["POST", f"{BASE}/topics/{{topic:path}}/pause"],
        "a/b\n",
    )
    assert table.find("DELETE", f"{BASE}/jobs").allowed == ("GET",)
    assert table.find("HEAD", "/metrics").access == ROUTES["GET", "/metrics"]


@pytest.mark.parametrize("caller", [Role.READ, Role.OPERATE])
async def test_no_sign_in_a_path_opens_another_route(store: Store, caller: Role) -> None:
    """Some readers take a line's end for the path's."""
    async with guarded(store) as client:
        client._transport.app.state.services.feed.end()  # type: ignore[attr-defined] # pyright: ignore
        for (method, path), access in ROUTES.items():
            if access.role is None:
                continue
            for more in ("%0A", "%0a", "%00", "%7f", "%0D%0A"):
                asked = request_of(method, path)[1] + more
                answer = await client.request(method, asked, headers=bearer(TOKENS[caller]))
                assert answer.status_code in (403, 404, 405), (method, asked, answer.text)
    assert deeds(store) == []


async def test_a_form_of_many_fields_is_no_fault_of_the_server(api: httpx.AsyncClient) -> None:
    answer = await api.post(
        "/login",
        content="&" * 30,
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    assert answer.status_code == 403


async def test_the_head_of_a_stream_has_an_end(api: httpx.AsyncClient) -> None:
    async with asyncio.timeout(10):
        answer = await api.head(f"{BASE}/subscribe", headers=bearer(TOKENS[Role.READ]))
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize("path", ["/api/v1/nothing", f"{BASE}/seed/", f"{BASE}//seed", "/api"])
async def test_what_there_is_not_tells_strangers_nothing(api: httpx.AsyncClient, path: str) -> None:
    problem(await api.post(path), 401, "unauthorized")
    problem(await api.post(path, headers=bearer(TOKENS[Role.ADMIN])), 404, "not-found")
    problem(await api.get("/elsewhere"), 404, "not-found")
    answer = await api.delete(f"{BASE}/jobs", headers=bearer(TOKENS[Role.READ]))
    problem(answer, 405, "method")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("Authorization", f"bearer {TOKENS[Role.READ]}")], 200),
        ([("Authorization", f"BEARER   {TOKENS[Role.READ]} ")], 200),
        ([("Authorization", TOKENS[Role.READ])], 401),
        ([("Authorization", f"Basic {TOKENS[Role.READ]}")], 401),
        ([("Authorization", "Bearer")], 401),
        ([("Authorization", f"Bearer {TOKENS[Role.READ]}x")], 401),
        ([("Authorization", f"Bearer {TOKENS[Role.READ]},{WRONG}")], 401),
        ([("Authorization", f"Bearer {TOKENS[Role.READ]}")] * 2, 400),
        ([("Cookie", f"netscript_session={TOKENS[Role.READ]}")], 401),
        ([("X-Api-Key", TOKENS[Role.READ])], 401),
        ([("Authorization", b"Bearer \xff\xfe")], 401),
    ],
)
async def test_a_token_comes_in_one_header_and_nowhere_else(
    api: httpx.AsyncClient, headers: Any, status: int
) -> None:
    answer = await api.get(f"{BASE}/jobs", headers=headers)
    assert answer.status_code == status
    query = await api.get(f"{BASE}/jobs", params={"access_token": TOKENS[Role.READ]})
    assert query.status_code == 401


async def test_health_is_open_and_says_little(api: httpx.AsyncClient) -> None:
    assert (await api.get("/health")).status_code == 200
    assert (await api.get("/health/ready")).status_code == 503


# Browsers.


async def test_no_page_of_another_site_reaches_the_api_without_tokens(store: Store) -> None:
    definitions.register(store, [process_payment])
    async with serving(store, process_payment) as client:
        for headers in (
            {"Host": "evil.example"},
            {"Host": "evil.example:8091", "Origin": "http://evil.example:8091"},
            {"Host": "127.0.0.1.evil.example"},
            {"Host": ""},
        ):
            answer = await client.post(TRIGGER, json=PAYLOAD, headers=headers)
            problem(answer, 421, "host")
        for headers in (
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://localhost:3000"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            answer = await client.post(TRIGGER, json=PAYLOAD, headers=headers)
            problem(answer, 403, "origin")
            assert not any(name.startswith("access-control") for name in answer.headers)
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
            answer = await client.post(TRIGGER, content=b"{}", headers={"Content-Type": kind})
            problem(answer, 415, "content-type")
        asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
        answer = await client.options(TRIGGER, headers=asked)
        assert answer.status_code == 403
        assert scalar(store, "SELECT count(*) FROM netscript_executions") == 0
        assert deeds(store) == []
        for headers in ({"Sec-Fetch-Site": "same-origin"}, {"Host": "127.0.0.2:1"}, {}):
            answer = await client.post(TRIGGER, json=PAYLOAD, headers=headers)
            assert answer.status_code == 202


async def test_insecure_lets_any_host_in_and_still_no_foreign_page(store: Store) -> None:
    async with serving(store, host=HOST, doors=Doors(insecure=True)) as client:
        assert (await client.get(f"{BASE}/jobs")).status_code == 200
        headers = {"Origin": "http://evil.example"}
        problem(await client.post(f"{BASE}/seed", headers=headers), 403, "origin")


async def test_answers_tell_browsers_to_keep_and_embed_nothing(api: httpx.AsyncClient) -> None:
    for path, headers in (
        ("/login", {}),
        ("/api/v1/nothing", {}),
        (f"{BASE}/jobs", bearer(TOKENS[Role.READ])),
        (f"{BASE}/jobs", {**bearer(TOKENS[Role.READ]), "Origin": "http://evil.example"}),
    ):
        told = (await api.get(path, headers=headers)).headers
        assert told["x-content-type-options"] == "nosniff"
        assert told["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in told["content-security-policy"]
        assert told["referrer-policy"] == "same-origin"
        assert not any(name.startswith("access-control") for name in told)


async def test_a_login_is_a_cookie_that_holds_no_token(
    store: Store, api: httpx.AsyncClient
) -> None:
    answer = await api.get("/", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    answer = await log_in(api, TOKENS[Role.OPERATE])
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    (set_cookie,) = [
        one for one in answer.headers.get_list("set-cookie") if one.startswith("netscript_session")
    ]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} < set(set_cookie.split("; "))
    assert f"Max-Age={sessions.LIFETIME_SECONDS}" in set_cookie
    assert TOKENS[Role.OPERATE] not in set_cookie
    page = await api.get("/")
    assert "<strong>operate-er</strong>" in page.text
    assert (await api.get(f"{BASE}/jobs")).status_code == 200
    assert deeds(store) == [("operate-er", "login", None, None)]
    form = re.search(r'name="form_token" value="([^"]+)"', page.text)
    assert form is not None
    # What changes something needs what only a page of ours knows.
    problem(await api.post(TRIGGER, json=PAYLOAD), 403, "csrf")
    headers = {"X-CSRF-Token": form[1]}
    for bad in ({"X-CSRF-Token": "x"}, {**headers, "Origin": "http://evil.example"}):
        assert (await api.post(TRIGGER, json=PAYLOAD, headers=bad)).status_code == 403
    assert (await api.post(TRIGGER, json=PAYLOAD, headers=headers)).status_code == 202
    problem(await api.post(f"{BASE}/seed", headers=headers), 403, "insufficient-scope")
    problem(await api.post("/logout"), 403, "csrf")
    answer = await api.post("/logout", data={"form_token": form[1]})
    assert answer.status_code == 303
    problem(await api.get(f"{BASE}/jobs"), 401, "unauthorized")


async def test_a_cookie_of_https_is_for_https_and_this_host_only(store: Store) -> None:
    async with guarded(store, public_url=f"https://{HOST}") as client:
        answer = await client.get("/login")
        assert answer.headers["set-cookie"].startswith("__Host-netscript_login=")
        assert "; Secure" in answer.headers["set-cookie"]


async def test_a_login_needs_its_own_form_and_a_right_token(
    store: Store, api: httpx.AsyncClient
) -> None:
    answer = await api.post("/login", data={"token": TOKENS[Role.ADMIN]})
    assert answer.status_code == 403
    answer = await log_in(api, WRONG)
    assert (answer.status_code, "no token of this server" in answer.text) == (401, True)
    assert WRONG not in answer.text
    answer = await log_in(api, TOKENS[Role.ADMIN], Origin="http://evil.example")
    problem(answer, 403, "origin")
    assert (await api.post("/login", content=b"x" * 10_000)).status_code == 403
    assert not any("session" in name for name in api.cookies)
    assert deeds(store) == []


def test_a_session_ends_with_its_time_or_its_token_and_no_other_cookie_is_one() -> None:
    now = [1_000_000.0]
    tokens = parse_tokens([f"a:read:{WRONG}", f"b:admin:{TOKENS[Role.READ]}"])
    here = sessions.Sessions(tokens, lambda: now[0])
    token = tokens.named("a")
    assert token is not None
    cookie = here.issue(token)
    # Another process, whose digests are others.
    elsewhere = parse_tokens([f"a:admin:{WRONG}"])
    found = sessions.Sessions(elsewhere, lambda: now[0]).read(cookie)
    assert found is not None
    assert found.role is Role.ADMIN
    for changed in (
        "b" + cookie[1:],
        cookie[:-1] + ("0" if cookie[-1] != "0" else "1"),
        cookie.replace(".10", ".99", 1),
        cookie + "é",
        "",
        "a",
        "a.x.y.z",
        "." * 600,
    ):
        assert here.read(changed) is None
    for gone in ([f"a:read:{TOKENS[Role.READ]}"], [f"c:read:{WRONG}"]):
        assert sessions.Sessions(parse_tokens(gone), lambda: now[0]).read(cookie) is None
    now[0] += sessions.LIFETIME_SECONDS
    assert here.read(cookie) is None
    assert here.is_form_token(cookie, here.form_token(cookie))
    assert not here.is_form_token(here.issue(token), here.form_token(cookie))


# Limits.


async def test_each_token_has_its_own_rate(store: Store) -> None:
    async with guarded(store, rate=3) as client:
        for _ in range(3):
            answer = await client.get(f"{BASE}/jobs", headers=bearer(TOKENS[Role.READ]))
            assert answer.status_code == 200
        answer = await client.get(f"{BASE}/jobs", headers=bearer(TOKENS[Role.READ]))
        problem(answer, 429, "too-many-requests")
        assert 1 <= int(answer.headers["retry-after"]) <= 20
        answer = await client.get(f"{BASE}/jobs", headers=bearer(TOKENS[Role.ADMIN]))
        assert answer.status_code == 200


async def test_guessing_is_slowed_and_locks_nobody_else_out(store: Store) -> None:
    trusted = Doors().clients
    async with guarded(store, clients=trusted) as client:
        known = bearer(TOKENS[Role.ADMIN])
        assert (await client.get(f"{BASE}/jobs", headers=known)).status_code == 200
        for _ in range(authentication.MAX_FAILURES):
            answer = await client.get(f"{BASE}/jobs", headers=bearer(WRONG))
            assert answer.status_code == 401
        for guessed in (WRONG, TOKENS[Role.READ]):  # right ones look as wrong ones do
            answer = await client.get(f"{BASE}/jobs", headers=bearer(guessed))
            problem(answer, 429, "too-many-requests")
            assert int(answer.headers["retry-after"]) >= 1
        assert (await client.get(f"{BASE}/jobs", headers=known)).status_code == 200
        transport: Any = client._transport
        elsewhere = httpx.ASGITransport(transport.app, client=("2001:db8::1", 1))
        async with httpx.AsyncClient(transport=elsewhere, base_url=f"http://{HOST}") as other:
            headers = bearer(TOKENS[Role.READ])
            assert (await other.get(f"{BASE}/jobs", headers=headers)).status_code == 200


# The audit.


async def test_what_is_done_is_recorded_with_who_and_why(
    store: Store, api: httpx.AsyncClient
) -> None:
    one, other = new(), new()
    put(store, one, other)
    operate, admin = bearer(TOKENS[Role.OPERATE]), bearer(TOKENS[Role.ADMIN])
    url = f"{BASE}/executions"
    why = {**operate, "X-Reason": "the customer\x7f asked"}
    assert (await api.post(f"{url}/{one.id}/cancel", headers=why)).status_code == 200
    assert (await api.post(f"{url}/{one.id}/cancel", headers=why)).status_code == 409
    assert (await api.post(f"{url}/{new_id()}/cancel", headers=operate)).status_code == 404
    answer = await api.post(f"{url}/cancel", json={"ids": [other.id]}, headers=operate)
    assert answer.status_code == 200
    answer = await api.post(f"{BASE}/topics/a%2Fb/pause?reason=too%20much", headers=operate)
    assert answer.status_code == 200
    assert (await api.post(f"{BASE}/seed", headers=admin)).status_code == 200
    assert (await api.get(f"{BASE}/jobs", headers=admin)).status_code == 200
    assert deeds(store) == [
        ("operate-er", "executions.cancel", one.id, "the customer  asked"),
        ("operate-er", "executions.cancel-many", f'{{"ids":["{other.id}"]}}', None),
        ("operate-er", "topics.pause", "a/b", "too much"),
        ("admin-er", "definitions.seed", None, None),
    ]
    first = (await api.get("/api/v1/audit", params={"limit": 3}, headers=admin)).json()
    assert [entry["action"] for entry in first["entries"]] == [
        "definitions.seed",
        "topics.pause",
        "executions.cancel-many",
    ]
    assert first["entries"][0]["address"] == "127.0.0.1"
    asked = {"limit": 3, "cursor": first["next_cursor"]}
    last = (await api.get("/api/v1/audit", params=asked, headers=admin)).json()
    assert [entry["action"] for entry in last["entries"]] == ["executions.cancel"]
    assert last["next_cursor"] is None
    answer = await api.get("/api/v1/audit", params={"cursor": "x"}, headers=admin)
    assert answer.status_code == 400
