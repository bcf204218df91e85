"""What a server and a worker tell Prometheus after some real work, to the number."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.acceptance.observed import (
    check_with_promtool,
    open_shop,
    samples,
    scraped,
    value,
)
from tests.proxy import Proxy
from tests.support import eventually, free_port, netscript


def test_numbers_after_real_work_are_exact(tmp_path: Path, database_url: str) -> None:
    with open_shop(tmp_path, database_url) as shop:
        told = shop.deliver(order="o_1").json()
        assert shop.deliver("some other secret", order="o_1").status_code == 401
        assert shop.deliver(order="o_1").json()["duplicate"] is True
        doomed = shop.deliver(order="o_2", doomed=True).json()
        assert shop.ended(told["executions"][0])["status"] == "completed"
        assert shop.ended(doomed["executions"][0])["status"] == "failed"
        text = eventually(
            lambda: (
                found
                if value(samples(found := scraped(shop.url)), "netscript_dead_letters") == 1
                else None
            ),
            what="a fresh look at the database",
        )
        assert text is not None
        server = samples(text)
        expected = {
            ("netscript_events_accepted_total", "orders"): 2,
            ("netscript_deliveries_refused_total", "orders", "signature-mismatch"): 1,
            ("netscript_deliveries_duplicate_total", "orders"): 1,
            ("netscript_events_handled_total", "orders", "completed"): 2,
            ("netscript_executions_enqueued_total", "stored"): 2,
            ("netscript_commit_size_sum",): 2,
            ("netscript_database_up",): 1,
            ("netscript_dead_letters",): 1,
            ("netscript_events_kept", "dead"): 0,
            ("netscript_topic_depth", "orders"): 0,
            ("netscript_topic_running", "orders"): 0,
            ("netscript_topic_oldest_wait_seconds", "orders"): 0,
            ("netscript_workers_live",): 1,
            ("netscript_workers_stalled",): 0,
            ("netscript_workers_slots",): 100,
        }
        assert {key: value(server, *key) for key in expected} == expected
        assert value(server, "netscript_loop_lag_seconds_count")
        told_by_worker = scraped(shop.worker_url)
        worker = samples(told_by_worker)
        expected = {
            ("netscript_executions_ended_total", "flaky", "completed"): 1,
            ("netscript_executions_ended_total", "doomed", "failed"): 1,
            ("netscript_executions_retried_total", "flaky", "error"): 1,
            ("netscript_executions_dead_total", "doomed"): 1,
            ("netscript_execution_wait_seconds_count", "flaky"): 2,
            ("netscript_execution_wait_seconds_count", "doomed"): 1,
            ("netscript_execution_duration_seconds_count", "flaky"): 2,
            ("netscript_execution_duration_seconds_count", "doomed"): 1,
            ("netscript_slots_used",): 0,
            ("netscript_slots_limit",): 100,
        }
        assert {key: value(worker, *key) for key in expected} == expected
        for name in ("claim_duration", "tick_duration", "loop_lag"):
            assert value(worker, f"netscript_{name}_seconds_count"), name
        ids = {told["event_id"], *told["executions"], *doomed["executions"]}
        assert not [id_ for id_ in ids if id_ in text + told_by_worker]
        for one in (text, told_by_worker):
            check_with_promtool(own(one))


def own(text: str) -> str:
    """Leave out what others' libraries name as they like."""
    lines = [line for line in text.splitlines() if "netscript_" in line]
    return "\n".join([*lines, ""])


def test_a_worker_with_tokens_asks_for_one(tmp_path: Path, database_url: str) -> None:
    token = "geheim-eins-AAAAAAAAAAAA"
    env = {"NETSCRIPT_API_TOKENS": f"prometheus:read:{token}"}
    with open_shop(tmp_path, database_url, **env) as shop:
        for url in (shop.url, shop.worker_url):
            for header in ({}, {"Authorization": "Bearer geheim-falsch-AAAAAAAAAA"}):
                answer = httpx.get(f"{url}/metrics", headers=header, trust_env=False)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"].startswith("Bearer")
                assert "netscript_" not in answer.text
            assert "netscript_" in scraped(url, Authorization=f"Bearer {token}")


def test_a_worker_without_tokens_answers_this_machine_only(
    tmp_path: Path, database_url: str
) -> None:
    with open_shop(tmp_path, database_url) as shop:
        headers = {"Host": "rebound.example"}
        for url in (shop.url, shop.worker_url):
            answer = httpx.get(f"{url}/metrics", headers=headers, trust_env=False)
            assert answer.status_code == 421
        answer = httpx.get(f"{shop.worker_url}/other", trust_env=False)
        assert answer.status_code == 404
    env = {"NETSCRIPT_DATABASE_URL": database_url, "NETSCRIPT_METRICS_HOST": "0.0.0.0"}
    flags = ("--metrics-port", str(free_port()))
    done = netscript("worker", *flags, cwd=tmp_path / "shop", env=env)
    assert done.returncode == 1
    assert "Without tokens a worker serves its metrics at loopback only" in done.stderr


def test_a_server_whose_database_is_gone_says_so(
    tmp_path: Path, postgres_proxy: tuple[Proxy, str]
) -> None:
    proxy, url = postgres_proxy
    with open_shop(tmp_path, url) as shop:
        assert value(samples(scraped(shop.url)), "netscript_database_up") == 1
        proxy.cut()
        eventually(lambda: value(samples(scraped(shop.url)), "netscript_database_up") == 0, 30.0)
        proxy.heal()
        eventually(lambda: value(samples(scraped(shop.url)), "netscript_database_up") == 1, 30.0)
