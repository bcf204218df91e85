"""A whole server killed at every point of a delivery, in turn: run by `make chaos`."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from netscript_workers.store.engine import Store
from tests.chaos.kills import SECRET, Order, project
from tests.kit import rows
from tests.support import ROOT, Process, free_port, wait_until_answers

pytestmark = pytest.mark.chaos


class Server:
    """A server that dies at a point of its first delivery; at 0, it lives."""

    def __init__(self, place: Path, url: str, die_at: int) -> None:
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        environment = {
            "NETSCRIPT_DATABASE_URL": url,
            "WEBHOOK_SECRET": SECRET,
            "CHAOS_RECORD": "/dev/null",
            "PYTHONPATH": str(ROOT),
        }
        command = ("-m", "tests.chaos.dying_server", str(die_at), "serve", "--port", str(port))
        self.process = Process(*command, "--log-level", "error", cwd=place, env=environment)

    def deliver(self, order: Order) -> dict[str, Any] | None:
        """Return the answer, or None if the server died first."""
        wait_until_answers(self._url, seconds=60)
        try:
            answer = httpx.post(
                f"{self._url}/webhooks/orders",
                content=order.body,
                headers=order.headers,
                trust_env=False,
                timeout=30,
            )
        except httpx.TransportError:
            return None
        assert answer.status_code == 202, answer.text
        told: dict[str, Any] = answer.json()
        return told


@pytest.mark.trap("D-42")
def test_a_server_that_dies_at_any_point_has_stored_a_delivery_whole_or_not_at_all(
    database_url: str, tmp_path: Path
) -> None:
    store, place = Store(database_url), project(tmp_path / "shop")
    answers: dict[str, dict[str, Any]] = {}
    points: list[str] = []
    for number in count(1):
        order = Order(f"order-{number}", actions=3)
        dying = Server(place, database_url, number)
        with dying.process:
            first = dying.deliver(order)
            if first is None:
                dying.process.popen.wait(10)
                points.append(dying.process.output.partition("dies at: ")[2].strip())
        again = Server(place, database_url, 0)
        with again.process:
            told = again.deliver(order)
        assert told is not None
        answers[order.id] = told
        if first is not None:
            assert told == {**first, "duplicate": True}
            break
    print(f"{len(points)} points: {points}")
    assert {"COMMIT", "the answer"} <= set(points)

    stored = rows(store, "SELECT CAST(id AS text) FROM netscript_executions")
    told_ids = [id_ for told in answers.values() for id_ in told["executions"]]
    assert sorted(told_ids) == sorted(id_ for (id_,) in stored)
    assert len(set(told_ids)) == 3 * len(answers)
    store.dispose()
