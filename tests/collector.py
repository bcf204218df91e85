"""A collector: what exporters send over OTLP, as a tree that a test can compare."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.support import eventually

# What tells two spans of one name apart in a tree.
_LABELS = ("netscript.job.id", "netscript.step.name", "netscript.trigger.id")
KINDS = {
    number: name.removeprefix("SPAN_KIND_") for name, number in trace_pb2.Span.SpanKind.items()
}


@dataclass(frozen=True)
class Seen:
    """A span as it came."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    links: list[tuple[str, str]]
    failed: bool
    description: str
    state: str
    process: dict[str, Any]
    start: int
    end: int

    @property
    def label(self) -> str:
        label = next((self.attributes[n] for n in _LABELS if n in self.attributes), "")
        return f"{self.name} {label} {self.kind}{' failed' if self.failed else ''}"

    @property
    def happened(self) -> list[str]:
        return [name for name, _ in self.events]


@dataclass
class Collector:
    """Everything that has come."""

    endpoint: str
    protocol: str
    spans: list[Seen] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": self.protocol,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    def take(self, request: service.ExportTraceServiceRequest) -> None:
        seen = [
            _seen(span, dict(_attributes(one.resource.attributes)))
            for one in request.resource_spans
            for scope in one.scope_spans
            for span in scope.spans
        ]
        with self.lock:
            self.spans += seen

    def named(self, name: str, **attributes: Any) -> list[Seen]:
        wanted = {key.replace("_", "."): value for key, value in attributes.items()}
        with self.lock:
            return [
                one
                for one in self.spans
                if one.name == name and wanted.items() <= one.attributes.items()
            ]

    def wait_for(self, name: str, count: int = 1, **attributes: Any) -> list[Seen]:
        what = f"{count} of {name} {attributes}"
        return eventually(
            lambda: found if len(found := self.named(name, **attributes)) >= count else [],
            60.0,
            what,
        )

    def tree(self, trace: str) -> str:
        """Draw a trace; spans beside each other stand in the order of their labels."""
        with self.lock:
            mine = [one for one in self.spans if one.trace == trace]
        below: defaultdict[str, list[Seen]] = defaultdict(list)
        ids = {one.id for one in mine}
        for one in mine:
            below[one.parent if one.parent in ids else ""].append(one)
        lines: list[str] = []

        def draw(parent: str, depth: int) -> None:
            for one in sorted(below[parent], key=lambda one: (one.label, one.start)):
                lines.append("  " * depth + one.label)
                draw(one.id, depth + 1)

        draw("", 0)
        return "\n".join(lines)


def _value(told: AnyValue) -> Any:
    kind = told.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in told.array_value.values]
    return None if kind is None else getattr(told, kind)


def _attributes(told: Iterable[KeyValue]) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in told}


def _seen(span: trace_pb2.Span, process: dict[str, Any]) -> Seen:
    return Seen(
        name=span.name,
        kind=KINDS[span.kind],
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        attributes=_attributes(span.attributes),
        events=[(one.name, _attributes(one.attributes)) for one in span.events],
        links=[(one.trace_id.hex(), one.span_id.hex()) for one in span.links],
        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        description=span.status.message,
        state=span.trace_state,
        process=process,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
    )


@contextmanager
def collecting(protocol: str = "http/protobuf") -> Generator[Collector]:
    """Listen for spans."""
    with (_over_grpc if protocol == "grpc" else _over_http)() as collector:
        yield collector


@contextmanager
def _over_http() -> Generator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                collector.take(service.ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002 - its base's name

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}", "http/protobuf")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def _over_grpc() -> Generator[Collector]:
    def export(request: Any, _context: Any) -> service.ExportTraceServiceResponse:
        collector.take(request)
        return service.ExportTraceServiceResponse()

    handler = grpc.unary_unary_rpc_method_handler(
        export,
        request_deserializer=service.ExportTraceServiceRequest.FromString,
        response_serializer=service.ExportTraceServiceResponse.SerializeToString,
    )
    name = service.DESCRIPTOR.services_by_name["TraceService"].full_name
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, {"Export": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    collector = Collector(f"http://127.0.0.1:{port}", "grpc")
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()
