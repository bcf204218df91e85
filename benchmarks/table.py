"""The arithmetic of the table: medians, the best peer, ratios, and whether a bar holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of one contestant, and what the machine did meanwhile.

    Attributes:
        contestant: Its name.
        measure: What was measured: `drain-pg`, `drain-pg cpu`.
        value: In the measure's unit.
        steal: Percent of the machine's time that its host took away.
        load: The machine's load average of one minute, at the end.
    """

    contestant: str
    measure: str
    value: float
    steal: float = 0.0
    load: float = 0.0


@dataclass(frozen=True, slots=True)
class Bar:
    """What must hold.

    Attributes:
        kind: `ratio` compares with the best peer, `value` with the limit itself.
        limit: A ratio, or a value in the measure's unit.
        better: Whether more or less is better.
    """

    kind: Literal["ratio", "value"]
    limit: float
    better: Literal["more", "less"]

    def best(self, values: Iterable[float]) -> float:
        """Return the best of several values."""
        return max(values) if self.better == "more" else min(values)

    def holds(self, figure: float) -> bool:
        """Tell whether a ratio or a value is good enough."""
        return figure >= self.limit if self.better == "more" else figure <= self.limit

    def __str__(self) -> str:
        sign = "≥" if self.better == "more" else "≤"
        return f"{sign} {self.limit:g}{'x' if self.kind == 'ratio' else ''}"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table: who is compared in what, and what must hold.

    Attributes:
        title: What is measured, for people.
        measure: The samples' measure, or several with a bar between them.
        unit: Of the values.
        ours: Our name in the samples.
        peers: Whose best is compared with ours; None for everybody else in that measure.
        bar: What must hold.
    """

    title: str
    measure: str
    unit: str
    ours: str
    bar: Bar
    peers: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a line; None where it could not be measured."""

    line: Line
    ours: float | None
    best: tuple[str, float] | None
    ratio: float | None
    holds: bool | None


def medians(samples: Iterable[Sample], measure: str) -> dict[str, float]:
    """Return each contestant's median in a measure, or in one of several: `drain pg|drain x`."""
    wanted = measure.split("|")
    values: dict[str, list[float]] = {}
    for sample in samples:
        if sample.measure in wanted:
            values.setdefault(sample.contestant, []).append(sample.value)
    return {name: median(found) for name, found in values.items()}


def judge(line: Line, samples: Sequence[Sample]) -> Verdict:
    """Compare our median with the best peer's, or with the bar itself."""
    found = medians(samples, line.measure)
    ours = found.get(line.ours)
    best = _best_peer(line, found)
    ratio = ours / best[1] if ours is not None and best is not None and best[1] else None
    figure = ratio if line.bar.kind == "ratio" else ours
    return Verdict(line, ours, best, ratio, None if figure is None else line.bar.holds(figure))


def _best_peer(line: Line, found: Mapping[str, float]) -> tuple[str, float] | None:
    names = line.peers if line.peers is not None else [name for name in found if name != line.ours]
    values = {name: found[name] for name in names if name in found}
    if not values:
        return None
    wanted = line.bar.best(values.values())
    return next((name, value) for name, value in values.items() if value == wanted)


def render(verdicts: Sequence[Verdict]) -> str:
    """Return the table as text."""
    rows = [("measure", "netscript", "best peer", "ratio", "bar", "holds?")]
    for verdict in verdicts:
        unit = verdict.line.unit
        best = verdict.best
        rows.append(
            (
                verdict.line.title,
                _amount(verdict.ours, unit),
                f"{best[0]} {_amount(best[1], unit)}" if best else "-",
                "-" if verdict.ratio is None else f"{verdict.ratio:.2f}x",
                str(verdict.line.bar),
                {True: "yes", False: "NO", None: "not measured"}[verdict.holds],
            )
        )
    return columns(rows)


def details(measure: str, unit: str, samples: Sequence[Sample], better: str) -> str:
    """Return every contestant's figures in a measure, best first, with every single run."""
    found = medians(samples, measure)
    wanted = measure.split("|")
    rows = [(f"{measure} ({unit})", "median", "runs", "steal %", "load")]
    for name in sorted(found, key=lambda one: found[one], reverse=better == "more"):
        runs = [one for one in samples if one.measure in wanted and one.contestant == name]
        rows.append(
            (
                name,
                figure(found[name]),
                " ".join(figure(run.value) for run in runs),
                " ".join(f"{run.steal:.0f}" for run in runs),
                " ".join(f"{run.load:.1f}" for run in runs),
            )
        )
    return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned text, the first one underlined."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def figure(value: float) -> str:
    """Return a number with the digits that mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _amount(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{figure(value)} {unit}"
