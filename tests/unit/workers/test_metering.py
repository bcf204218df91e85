"""The instruments, their tallies, and a program's own meter provider."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from typing import Any

import pytest

from netscript_workers.domain import Outcome, Reason, Verdict
from netscript_workers.errors import ConfigurationError
from netscript_workers.telemetry import metering, working
from netscript_workers.telemetry.asking import asks_for
from netscript_workers.telemetry.metering import INSTRUMENTS, METERING, Metering
from netscript_workers.telemetry.tallies import MAX_SERIES, OTHERS, Count, Distribution, Gauge
from tests.unit.fakes import claim_of


def test_names_follow_the_conventions() -> None:
    names = [one.name for one in INSTRUMENTS]
    assert len(names) == len(set(names)) > 30
    for one in INSTRUMENTS:
        assert re.fullmatch(r"netscript(\.[a-z][a-z_]*)+", one.name)
        assert re.fullmatch(r"s|1|\{[a-z]+\}", one.unit)
        assert one.description.endswith(".") or one.description.endswith("not.")
        assert bool(one.bounds) is (one.kind == "histogram")
        assert list(one.bounds) == sorted(one.bounds)
        assert (one.unit == "s") == one.name.endswith(("duration", "wait", "lag", "lateness")), (
            one.name
        )


def test_no_attribute_grows_without_end() -> None:
    allowed = {
        "netscript.job.id",
        "netscript.topic",
        "netscript.trigger.id",
        "netscript.schedule.id",
        "netscript.reason",
        "netscript.outcome",
        "netscript.event.status",
        "netscript.drift.kind",
    }
    assert {name for one in INSTRUMENTS for name in one.attributes} == allowed


def test_series_are_bounded_whatever_is_named() -> None:
    count, spread = Count(), Distribution((1.0,))
    for number in range(MAX_SERIES + 50):
        count.add(1, f"job-{number}")
        spread.record(0.5, f"job-{number}")
    assert len(count.read()) == len(spread.read()) == MAX_SERIES + 1
    assert dict(count.read())[OTHERS,] == 50
    assert dict(spread.read())[OTHERS,].counts == (50, 0)


def test_threads_lose_no_count() -> None:
    count, spread = Count(), Distribution((1.0, 2.0))

    def work() -> None:
        for _ in range(5_000):
            count.add(1, "a")
            spread.record(1.5, "a")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count.read() == [(("a",), 20_000)]
    ((_, found),) = spread.read()
    assert found.counts == (0, 20_000, 0)
    assert found.total == 30_000


def test_a_value_at_a_bound_is_under_it() -> None:
    spread = Distribution((1.0, 2.0))
    spread.record_all([1.0, 2.0, 2.1])
    ((_, found),) = spread.read()
    assert found.counts == (1, 1, 1)
    assert (found.least, found.most) == (1.0, 2.1)


def test_many_values_at_once_are_sorted_as_one_by_one() -> None:
    bounds = (1.0, 2.0, 5.0)
    values = [(number * 7 % 13) / 2 for number in range(60)]
    together, alone = Distribution(bounds), Distribution(bounds)
    together.record_all(list(values), "a")
    for value in values:
        alone.record(value, "a")
    ((_, one),), ((_, other),) = together.read(), alone.read()
    assert one.counts == other.counts
    assert sum(one.counts) == 60
    assert (one.least, one.most, one.total) == (other.least, other.most, other.total)


def test_a_gauge_adds_up_what_several_tell_until_they_end() -> None:
    gauge = Gauge()
    ends = [gauge.watch(lambda: [((), 2)]), gauge.watch(lambda: [((), 3)])]
    assert gauge.read() == [((), 5)]
    ends[0]()
    assert gauge.read() == [((), 3)]


def test_nothing_is_counted_before_anybody_reads_it() -> None:
    idle = Metering()
    idle.add(metering.TICKS_FAILED, 1)
    idle.record(metering.TICK_DURATION, 1.0)
    assert idle.counts[metering.TICKS_FAILED].read() == []
    assert idle.distributions[metering.TICK_DURATION].read() == []


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Metering:
    fresh = Metering()
    fresh.on = True
    monkeypatch.setattr(working, "METERING", fresh)
    return fresh


def ended(job: str, verdict: Verdict, failure: Reason | None = None, **more: Any) -> Any:
    one = claim_of(job, id=f"{job}-{verdict}-{failure}")
    outcome = Outcome(execution_id=one.id, token=1, verdict=verdict, failure=failure, **more)
    return one, outcome


def test_ends_are_told_apart(counted: Metering) -> None:
    ends = {
        "completed": [ended("a", Verdict.COMPLETE, seconds=0.2), ended("b", Verdict.COMPLETE)],
        "failed": [
            ended("a", Verdict.FAIL, Reason.ERROR),
            ended("a", Verdict.FAIL, Reason.TIMEOUT),
        ],
        "cancelled": [ended("a", Verdict.RETRY, Reason.ERROR)],  # somebody wanted it to end
        "scheduled": [ended("a", Verdict.RETRY, Reason.TIMEOUT), ended("a", Verdict.SNOOZE)],
    }
    changed = [(one.id, status) for status, some in ends.items() for one, _ in some]
    lost = ended("c", Verdict.COMPLETE)
    working.settled([*(end for some in ends.values() for end in some), lost], changed)
    read = counted.counts
    assert dict(read[metering.EXECUTIONS_ENDED].read()) == {
        ("a", "completed"): 1,
        ("b", "completed"): 1,
        ("a", "failed"): 1,
        ("a", "timeout"): 1,
        ("a", "cancelled"): 1,
    }
    assert dict(read[metering.EXECUTIONS_DEAD].read()) == {("a",): 2}
    assert dict(read[metering.EXECUTIONS_RETRIED].read()) == {("a", "timeout"): 1}
    assert dict(read[metering.RESULTS_STALE].read()) == {(): 1}
    ((key, spread),) = counted.distributions[metering.EXECUTION_DURATION].read()
    assert (key, spread.total) == (("a",), 0.2)


def test_a_crash_is_counted_and_the_last_one_ends_it(counted: Metering) -> None:
    one, last = ended("a", Verdict.FAIL, Reason.CRASHED)
    working.crashed(one, None)
    working.crashed(one, last)
    assert dict(counted.counts[metering.EXECUTIONS_CRASHED].read()) == {("a",): 2}
    assert dict(counted.counts[metering.EXECUTIONS_ENDED].read()) == {("a", "crashed"): 1}
    assert dict(counted.counts[metering.EXECUTIONS_DEAD].read()) == {("a",): 1}


def test_what_the_variables_ask_for() -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317"}
    assert not asks_for("metrics", {})
    assert asks_for("metrics", endpoint)
    assert asks_for("logs", {"OTEL_LOGS_EXPORTER": "otlp"})
    assert not asks_for("logs", {**endpoint, "OTEL_LOGS_EXPORTER": "none"})
    assert not asks_for("metrics", {**endpoint, "OTEL_SDK_DISABLED": "true"})
    assert not asks_for("metrics", {**endpoint, "OTEL_METRICS_EXPORTER": "prometheus"})
    with pytest.raises(ConfigurationError, match="OTEL_METRICS_EXPORTER: 'jaeger'"):
        asks_for("metrics", {"OTEL_METRICS_EXPORTER": "jaeger"})


PROGRAM = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from netscript_workers.telemetry import exporting, metering
from netscript_workers.telemetry.metering import METERING

{before}
reader = InMemoryMetricReader()
own = MeterProvider([reader], shutdown_on_exit=False)
metrics.set_meter_provider(own)
METERING.settle()
METERING.settle()
assert metrics.get_meter_provider() is own
METERING.add(metering.EVENTS_ACCEPTED, 2, "orders")
METERING.record(metering.EXECUTION_WAIT, 0.3, "pack")
found = {{
    metric.name: metric.data.data_points[0]
    for part in reader.get_metrics_data().resource_metrics
    for scope in part.scope_metrics
    for metric in scope.metrics
}}
assert found["netscript.events.accepted"].value == 2
assert found["netscript.execution.wait"].count == 1
assert dict(found["netscript.execution.wait"].attributes) == {{"netscript.job.id": "pack"}}
text = exporting.scrape().decode()
assert text.count("netscript_events_accepted_total{{") == {scraped}, text
"""


@pytest.mark.parametrize(
    ("before", "scraped"), [("", 0), ("exporting.start('shop', scraped=True)", 1)]
)
def test_a_programs_own_provider_is_kept_and_told(before: str, scraped: int) -> None:
    program = PROGRAM.format(before=before, scraped=scraped)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_process_has_one_metering() -> None:
    assert vars(working)["METERING"] is METERING
