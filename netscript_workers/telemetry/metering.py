"""The instruments: every one in one table, and what a process has counted with them.

Nothing here needs the SDK. What is counted goes out once somebody connects a meter: the commands do
(`exporting.py`), and a program that has a meter provider of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation

from netscript_workers.telemetry.tallies import Count, Distribution, Gauge, Key, Reading

SCOPE = "netscript"

JOB = "netscript.job.id"
TOPIC = "netscript.topic"
TRIGGER = "netscript.trigger.id"
SCHEDULE = "netscript.schedule.id"
REASON = "netscript.reason"
OUTCOME = "netscript.outcome"
STATUS = "netscript.event.status"
KIND = "netscript.drift.kind"

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_SIZES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)

InstrumentKind: TypeAlias = Literal["counter", "gauge", "histogram"]
Where: TypeAlias = Literal["serve", "worker", "both", "database"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """What is measured.

    Attributes:
        name: As OpenTelemetry's conventions have it.
        unit: As UCUM writes it.
        description: A sentence.
        where: Which process counts it; `database` is read from there by servers.
        attributes: What it is told apart by: nothing that grows without end.
        bounds: Of a histogram's buckets.
    """

    name: str
    kind: InstrumentKind
    unit: str
    description: str
    where: Where
    attributes: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


def _counter(name: str, unit: str, told: str, where: Where, *attributes: str) -> Instrument:
    return Instrument(
        name=name, kind="counter", unit=unit, description=told, where=where, attributes=attributes
    )


def _gauge(name: str, unit: str, told: str, where: Where, *attributes: str) -> Instrument:
    return Instrument(
        name=name, kind="gauge", unit=unit, description=told, where=where, attributes=attributes
    )


def _histogram(
    name: str, unit: str, told: str, where: Where, bounds: tuple[float, ...], *attributes: str
) -> Instrument:
    return Instrument(
        name=name,
        kind="histogram",
        unit=unit,
        description=told,
        where=where,
        attributes=attributes,
        bounds=bounds,
    )


EVENTS_ACCEPTED = _counter(
    "netscript.events.accepted", "{event}", "Events that were stored.", "serve", TRIGGER
)
DELIVERIES_REFUSED = _counter(
    "netscript.deliveries.refused",
    "{delivery}",
    "Deliveries that were refused, and connections.",
    "serve",
    TRIGGER,
    REASON,
)
DELIVERIES_DUPLICATE = _counter(
    "netscript.deliveries.duplicate",
    "{delivery}",
    "Deliveries of an event that was stored before.",
    "serve",
    TRIGGER,
)
DELIVERIES_CONFLICTING = _counter(
    "netscript.deliveries.conflicting",
    "{delivery}",
    "Keys that came again with other content.",
    "serve",
    TRIGGER,
)
EVENTS_HANDLED = _counter(
    "netscript.events.handled",
    "{event}",
    "How runs of triggers' handlers ended.",
    "serve",
    TRIGGER,
    STATUS,
)
EXECUTIONS_ENQUEUED = _counter(
    "netscript.executions.enqueued",
    "{execution}",
    "What became of enqueues: stored, duplicate or conflict.",
    "serve",
    OUTCOME,
)
COMMIT_SIZE = _histogram(
    "netscript.commit.size",
    "{submission}",
    "Events and enqueues that one transaction stored.",
    "serve",
    _SIZES,
)
COMMIT_DURATION = _histogram(
    "netscript.commit.duration", "s", "How long these transactions took.", "serve", _SHORT
)
EXECUTIONS_ENDED = _counter(
    "netscript.executions.ended",
    "{execution}",
    "Executions that came to their ends: completed, failed, cancelled, timeout or crashed.",
    "worker",
    JOB,
    OUTCOME,
)
EXECUTIONS_RETRIED = _counter(
    "netscript.executions.retried",
    "{execution}",
    "Attempts that failed and are followed by another.",
    "worker",
    JOB,
    REASON,
)
EXECUTIONS_DEAD = _counter(
    "netscript.executions.dead",
    "{execution}",
    "Executions that have failed for good.",
    "worker",
    JOB,
)
EXECUTIONS_CRASHED = _counter(
    "netscript.executions.crashed",
    "{execution}",
    "Attempts that killed their process.",
    "worker",
    JOB,
)
EXECUTIONS_RESCUED = _counter(
    "netscript.executions.rescued",
    "{execution}",
    "Executions taken from workers that had died.",
    "worker",
)
RESULTS_STALE = _counter(
    "netscript.results.stale",
    "{execution}",
    "Results that came after their claim was given up.",
    "worker",
)
EXECUTION_WAIT = _histogram(
    "netscript.execution.wait",
    "s",
    "From when an execution is due to when it is claimed.",
    "worker",
    _LONG,
    JOB,
)
EXECUTION_DURATION = _histogram(
    "netscript.execution.duration", "s", "How long attempts ran.", "worker", _LONG, JOB
)
CLAIM_DURATION = _histogram(
    "netscript.claim.duration", "s", "How long it took to claim.", "worker", _SHORT
)
TICK_DURATION = _histogram(
    "netscript.tick.duration",
    "s",
    "How long ticks took, each one transaction.",
    "worker",
    _SHORT,
)
TICKS_FAILED = _counter(
    "netscript.ticks.failed", "{tick}", "Ticks that were rolled back.", "worker"
)
SLOTS_USED = _gauge(
    "netscript.slots.used", "{execution}", "Executions that a worker has.", "worker"
)
SLOTS_LIMIT = _gauge(
    "netscript.slots.limit", "{execution}", "Executions that a worker runs at a time.", "worker"
)
LOOP_LAG = _histogram(
    "netscript.loop.lag", "s", "How late the event loop does what is due.", "both", _SHORT
)
SCHEDULE_FIRES = _counter(
    "netscript.schedule.fires", "{fire}", "Instants of schedules that fired.", "worker", SCHEDULE
)
SCHEDULE_LATENESS = _histogram(
    "netscript.schedule.lateness",
    "s",
    "From when an instant was due to when it fired.",
    "worker",
    _LONG,
    SCHEDULE,
)
DRIFT = _counter(
    "netscript.drift.repaired",
    "{place}",
    "Places of keys, jobs and batches that did not fit what runs; must be 0.",
    "worker",
    KIND,
)
DATABASE_UP = _gauge(
    "netscript.database.up", "1", "1 if the database told the numbers below, 0 if not.", "database"
)
TOPIC_DEPTH = _gauge(
    "netscript.topic.depth", "{execution}", "Executions that are ready to run.", "database", TOPIC
)
TOPIC_WAIT = _gauge(
    "netscript.topic.oldest_wait", "s", "For how long the oldest of them is due.", "database", TOPIC
)
TOPIC_RUNNING = _gauge(
    "netscript.topic.running", "{execution}", "Executions that run.", "database", TOPIC
)
TOPIC_SCHEDULED = _gauge(
    "netscript.topic.scheduled", "{execution}", "Executions that are due later.", "database", TOPIC
)
TOPIC_BLOCKED = _gauge(
    "netscript.topic.blocked",
    "{execution}",
    "Executions that wait for a key or for a limit of their job.",
    "database",
    TOPIC,
)
TOPIC_PAUSED = _gauge("netscript.topic.paused", "1", "1 if it is paused.", "database", TOPIC)
WORKERS_LIVE = _gauge(
    "netscript.workers.live", "{worker}", "Workers that are alive and claim.", "database"
)
WORKERS_STALLED = _gauge(
    "netscript.workers.stalled", "{worker}", "Of these, those that make no progress.", "database"
)
WORKERS_SLOTS = _gauge(
    "netscript.workers.slots",
    "{execution}",
    "Executions that live workers can run at a time.",
    "database",
)
JOBS_UNSERVED = _gauge(
    "netscript.job.unserved",
    "{execution}",
    "Ready executions whose job no live worker knows.",
    "database",
    JOB,
)
DEAD_LETTERS = _gauge(
    "netscript.dead_letters", "{execution}", "Executions that have failed for good.", "database"
)
EVENTS_KEPT = _gauge(
    "netscript.events.kept",
    "{event}",
    "Events that are pending, deferred, failed or dead.",
    "database",
    STATUS,
)

INSTRUMENTS: tuple[Instrument, ...] = tuple(
    found for found in list(globals().values()) if isinstance(found, Instrument)
)


class Metering:
    """What a process has counted; one for each process, `METERING`.

    Attributes:
        on: Whether anybody reads it. Nothing is to be counted before.
        provider: The one that the command has made, for whoever has none.
    """

    def __init__(self) -> None:
        """Begin with nothing, and nobody who reads it."""
        self.on = False
        self.provider: MeterProvider | None = None
        self.counts: dict[Instrument, Count] = {}
        self.gauges: dict[Instrument, Gauge] = {}
        self.distributions: dict[Instrument, Distribution] = {}
        self._has_settled = False
        for one in INSTRUMENTS:
            match one.kind:
                case "counter":
                    self.counts[one] = Count()
                case "gauge":
                    self.gauges[one] = Gauge()
                case "histogram":
                    self.distributions[one] = Distribution(one.bounds)

    def add(self, instrument: Instrument, number: float, *key: str) -> None:
        """Count, if anybody reads it."""
        if self.on:
            self.counts[instrument].add(number, *key)

    def record(self, instrument: Instrument, value: float, *key: str) -> None:
        """Take a value, if anybody reads it."""
        if self.on:
            self.distributions[instrument].record(value, *key)

    def watch(
        self, instrument: Instrument, source: Callable[[], Iterable[Reading]]
    ) -> Callable[[], None]:
        """Ask this for a gauge's values; return what ends that."""
        return self.gauges[instrument].watch(source)

    def connect(self, meter: Meter, *, histograms: bool) -> None:
        """Tell a meter all that is counted.

        Args:
            meter: From now on it has our instruments.
            histograms: Whether it is to be given each value of a histogram, which costs about five
                microseconds. Readers of our own take them from here (`exporting.py`).
        """
        for one, count in self.counts.items():
            meter.create_observable_counter(
                one.name, [_observed(one, count)], one.unit, one.description
            )
        for one, gauge in self.gauges.items():
            meter.create_observable_gauge(
                one.name, [_observed(one, gauge)], one.unit, one.description
            )
        if histograms:
            for one, distribution in self.distributions.items():
                distribution.listen(_recorded(one, meter))
        self.on = True

    def settle(self) -> None:
        """Come to terms with the program's own meter provider; called once its modules are loaded.

        Where it has set one, that is told what we count, too. Where it has not, its instruments use
        ours, if there is one.
        """
        if self._has_settled:
            return
        self._has_settled = True
        # The API's own stands for one that has yet to come.
        current = metrics.get_meter_provider()
        if not type(current).__module__.startswith("opentelemetry.metrics"):
            self.connect(metrics.get_meter(SCOPE), histograms=True)
        elif self.provider is not None:
            metrics.set_meter_provider(self.provider)


METERING = Metering()


def attributes_of(instrument: Instrument, key: Key) -> Mapping[str, str]:
    """Return the attributes of a series."""
    return dict(zip(instrument.attributes, key, strict=True))


def _observed(
    instrument: Instrument, source: Count | Gauge
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        for key, value in source.read():
            if math.isfinite(value):
                yield Observation(value, attributes_of(instrument, key))

    return observe


def _recorded(instrument: Instrument, meter: Meter) -> Callable[[float, Key], None]:
    histogram = meter.create_histogram(
        instrument.name,
        instrument.unit,
        instrument.description,
        explicit_bucket_boundaries_advisory=instrument.bounds,
    )

    def record(value: float, key: Key) -> None:
        histogram.record(value, attributes_of(instrument, key))

    return record
