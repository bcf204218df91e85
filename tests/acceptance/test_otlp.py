"""Metrics and logs by OTLP, to a collector that is there and to one that is not."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from tests.acceptance.observed import SECRET, open_shop
from tests.support import eventually, free_port, netscript


class Collector:
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.logs: list[ExportLogsServiceRequest] = []

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/metrics":
            self.metrics.append(ExportMetricsServiceRequest.FromString(body))
        else:
            self.logs.append(ExportLogsServiceRequest.FromString(body))

    def counted(self, service: str, name: str) -> int:
        """Return a counter's or a histogram's last count."""
        found = 0
        for request in self.metrics:
            for resource in request.resource_metrics:
                named = {one.key: one.value.string_value for one in resource.resource.attributes}
                if named["service.name"] != service:
                    continue
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        if metric.name == name:
                            points = metric.histogram.data_points
                            numbers = metric.sum.data_points
                            found = sum(one.count for one in points) or int(
                                sum(one.as_double + one.as_int for one in numbers)
                            )
        return found

    def lines(self) -> list[tuple[str, dict[str, str]]]:
        return [
            (one.body.string_value, {had.key: had.value.string_value for had in one.attributes})
            for request in self.logs
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for one in scope.log_records
        ]


@contextmanager
def collecting() -> Generator[tuple[Collector, str]]:
    collector = Collector()

    class Asked(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            collector.take(self.path, body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

    server = ThreadingHTTPServer(("127.0.0.1", 0), Asked)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_collector_is_sent_all_of_it_also_what_came_last(tmp_path: Path, sqlite_url: str) -> None:
    with collecting() as (collector, url):
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
        }
        with open_shop(tmp_path, sqlite_url, **env) as shop:
            told = shop.deliver(order="o_1").json()
            (id_,) = told["executions"]
            assert shop.ended(id_)["status"] == "completed"
            eventually(lambda: collector.counted("netscript-worker", "netscript.execution.wait"))
            shop.ended(shop.trigger("indiscreet"))
        # They have ended, and said what was left.
        server, worker = "netscript-serve", "netscript-worker"
        assert collector.counted(server, "netscript.events.accepted") == 1
        assert collector.counted(worker, "netscript.executions.ended") == 2
        assert collector.counted(worker, "netscript.execution.duration") == 3
        lines = collector.lines()
    packed = [facts for body, facts in lines if body == "packing o_1"]
    assert [facts["netscript.execution_id"] for facts in packed] == [id_, id_]
    assert packed[0]["netscript.event_id"] == told["event_id"]
    (failed,) = [facts for body, facts in lines if body == "it failed"]
    assert failed["exception.type"] == "ValueError"
    assert "wrong secret ***" in failed["exception.stacktrace"]
    assert SECRET not in str(lines)


def test_a_collector_that_is_gone_keeps_nobody(tmp_path: Path, sqlite_url: str) -> None:
    for protocol in ("grpc", "http/protobuf"):
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_METRIC_EXPORT_INTERVAL": "300",
        }
        with open_shop(tmp_path, sqlite_url, **env) as shop:
            order = f"by {protocol}"
            (id_,) = shop.deliver(order=order).json()["executions"]
            assert shop.ended(id_)["status"] == "completed"
            time.sleep(0.5)
            began = time.monotonic()
            for process in (shop.server, shop.worker):
                assert process.terminate(30.0) == 0, process.output
            assert time.monotonic() - began < 20


def test_an_exporter_that_is_none_stops_the_start(tmp_path: Path, sqlite_url: str) -> None:
    with open_shop(tmp_path, sqlite_url):
        pass
    env = {"NETSCRIPT_DATABASE_URL": sqlite_url, "OTEL_METRICS_EXPORTER": "jaeger"}
    for command in ("serve", "worker"):
        done = netscript(command, cwd=tmp_path / "shop", env=env)
        assert done.returncode == 1
        assert "OTEL_METRICS_EXPORTER: 'jaeger' can't be used." in done.stderr
        assert "Traceback" not in done.stderr
