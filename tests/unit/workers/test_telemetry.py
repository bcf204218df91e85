"""Telemetry's rules: contexts as text, the variables that switch it on, and what a child loads."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from netscript_workers.errors import ConfigurationError
from netscript_workers.telemetry import exporting, spans, w3c, wiring
from netscript_workers.telemetry.exporting import CalmExporter
from netscript_workers.telemetry.wiring import Tracing, check_sampler, exporters, protocol
from tests.support import ROOT, clean_environment

VALID = f"00-{'a' * 32}-{'b' * 16}-01"
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ((VALID, "x=1"), (VALID, "x=1")),
        ((VALID, None), (VALID, None)),
        ((VALID, "x" * 513), (VALID, None)),
        ((VALID, "x=ü"), (VALID, None)),
        ((f"01{VALID[2:]}-more", None), (VALID, None)),
        ((None, "x=1"), (None, None)),
        ((VALID.upper(), None), (None, None)),
        ((VALID[:-1], None), (None, None)),
        ((f"{VALID}-more", None), (None, None)),
        ((f"ff{VALID[2:]}", None), (None, None)),
        ((f"00-{'0' * 32}-{'b' * 16}-01", None), (None, None)),
        ((f"00-{'a' * 32}-{'0' * 16}-01", None), (None, None)),
        ((f"{VALID}\n", None), (None, None)),
    ],
)
def test_what_can_be_meant_is_kept(said: Any, kept: Any) -> None:
    assert w3c.accepted(*said) == kept


def test_the_last_bit_says_whether_a_trace_is_recorded() -> None:
    assert w3c.is_sampled(VALID) and w3c.is_sampled(f"{VALID[:-2]}03")
    assert not w3c.is_sampled(f"{VALID[:-2]}02")


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({}, []),
        (ENDPOINT, ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c"}, ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c"}, []),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, []),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, []),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ["console", "otlp"]),
    ],
)
def test_it_is_on_only_where_an_endpoint_or_an_exporter_is_named(
    environ: dict[str, str], names: list[str]
) -> None:
    assert exporters(environ, "TRACES") == names


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        (
            {**ENDPOINT, "OTEL_TRACES_SAMPLER": "parentbased_traceidratoi"},
            "parentbased_traceidratio",
        ),
        (
            {**ENDPOINT, "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "10%"},
            "from 0 to 1",
        ),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "http/protobuf or grpc"),
        ({"OTEL_TRACES_EXPORTER": "otpl"}, "otlp, console or none"),
    ],
)
def test_what_can_not_be_had_is_refused_with_what_can(environ: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        wiring.start_tracing("worker", environ)
    assert told in f"{refused.value} {refused.value.hint}"
    assert spans.recorder is None


def test_without_the_exporter_one_sentence_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    with pytest.raises(ConfigurationError) as refused:
        wiring.start_tracing("worker", ENDPOINT)
    assert refused.value.hint == "Install it: pip install netscript[otlp]"


def test_protocols_and_samplers_of_the_standard_are_taken() -> None:
    assert protocol({}, "TRACES") == "http/protobuf"
    assert protocol({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "TRACES") == "grpc"
    both = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
    }
    assert protocol(both, "TRACES") == "http/protobuf"
    for name in wiring.SAMPLERS:
        check_sampler({"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": "0.1"})


class Away(SpanExporter):
    """A collector that is away, then comes."""

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def export(self, spans: Any) -> SpanExportResult:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    def shutdown(self) -> None: ...


def test_a_collector_that_is_away_is_told_of_once_a_minute_and_when_it_is_back(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Away()
    calm = CalmExporter(away)
    away.answers = [OSError("a secret")] + [SpanExportResult.FAILURE] * 50
    with caplog.at_level(logging.INFO):
        for _ in range(51):
            assert calm.export([]) is SpanExportResult.FAILURE
        assert len(caplog.records) == 1 and "a secret" not in caplog.text
        monkeypatch.setattr(exporting, "SILENT_SECONDS", 0.0)
        away.answers = [SpanExportResult.FAILURE]
        calm.export([])
        assert len(caplog.records) == 2


def test_an_end_waits_for_the_collector_no_longer_than_it_may() -> None:
    class Hanging:
        def shutdown(self) -> None:
            time.sleep(30)

    began = time.monotonic()
    hanging: Any = Hanging()
    Tracing(hanging).close(0.1)
    assert time.monotonic() - began < 5


def test_a_child_loads_nothing_of_opentelemetry() -> None:
    program = (
        "import sys, netscript_workers.execution.runners.child\n"
        "from netscript_workers.telemetry import with_child_span, record_progress\n"
        "with with_child_span('a', n=1): record_progress(1, 2)\n"
        "found = [name for name in sys.modules if name.startswith('opentelemetry')]\n"
        "assert not found, found"
    )
    subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=ROOT, env=clean_environment(), timeout=60
    )
