"""The benchmarks: medians, the best peer, ratios, bars; and that the command is there."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.table import Bar, Line, Sample, judge, medians, render
from tests.support import ROOT

MORE = Line("drained", "drain pg", "/s", "ours", Bar("ratio", 1.5, "more"))
LESS = Line("CPU", "cpu pg", "ms", "ours", Bar("ratio", 1.0, "less"))
TIME = Line("late", "late", "ms", "ours", Bar("value", 3.0, "less"))


def samples(measure: str, **values: list[float]) -> list[Sample]:
    return [Sample(name, measure, one) for name, found in values.items() for one in found]


def test_each_contestant_counts_with_its_median() -> None:
    found = samples("drain pg", ours=[1.0, 100.0, 3.0], peer=[2.0, 4.0])

    assert medians([*found, Sample("ours", "other", 7.0)], "drain pg") == {"ours": 3.0, "peer": 3.0}


def test_a_measure_may_be_taken_from_several() -> None:
    found = [Sample("ours", "drain sqlite", 5.0), Sample("peer", "drain redis", 2.0)]

    assert medians(found, "drain sqlite|drain redis") == {"ours": 5.0, "peer": 2.0}


def test_where_more_is_better_the_best_peer_has_most() -> None:
    verdict = judge(MORE, samples("drain pg", ours=[300.0], slow=[100.0], fast=[200.0]))

    assert verdict.best == ("fast", 200.0)
    assert verdict.ratio == 1.5
    assert verdict.holds is True
    assert judge(MORE, samples("drain pg", ours=[299.0], fast=[200.0])).holds is False


def test_where_less_is_better_the_best_peer_has_least() -> None:
    verdict = judge(LESS, samples("cpu pg", ours=[0.2], thrifty=[0.1], wasteful=[0.9]))

    assert verdict.best == ("thrifty", 0.1)
    assert verdict.ratio == 2.0
    assert verdict.holds is False
    assert judge(LESS, samples("cpu pg", ours=[0.1], thrifty=[0.1])).holds is True


def test_a_line_may_name_whom_it_compares() -> None:
    line = Line("drained", "drain pg", "/s", "ours", Bar("ratio", 7.0, "more"), ("slow", "absent"))

    verdict = judge(line, samples("drain pg", ours=[700.0], slow=[100.0], fast=[900.0]))

    assert verdict.best == ("slow", 100.0)
    assert verdict.holds is True


def test_a_time_is_held_against_its_limit_and_not_against_peers() -> None:
    verdict = judge(TIME, samples("late", ours=[2.9], peer=[1.0]))

    assert verdict.holds is True
    assert judge(TIME, samples("late", ours=[3.1], peer=[9.0])).holds is False


def test_what_was_not_measured_holds_nothing() -> None:
    for found in (samples("drain pg", peer=[1.0]), samples("drain pg", ours=[1.0])):
        verdict = judge(MORE, found)
        assert verdict.ratio is None
        assert verdict.holds is None
    assert judge(TIME, []).holds is None


def test_the_table_says_what_holds() -> None:
    found = [*samples("drain pg", ours=[100.0], peer=[200.0]), *samples("late", ours=[1.0])]

    table = render([judge(line, found) for line in (MORE, LESS, TIME)])

    title, _, drained, cpu, late = (line.split() for line in table.splitlines())
    assert title[0] == "measure"
    assert drained == ["drained", "100", "/s", "peer", "200", "/s", "0.50x", "≥", "1.5x", "NO"]
    assert cpu[-2:] == ["not", "measured"]
    assert late[-1] == "yes"


def test_the_command_tells_its_options() -> None:
    line = [sys.executable, "-m", "benchmarks", "--help"]

    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)

    for option in ("--short", "--only", "--repeat", "--json", "--contestants"):
        assert option in done.stdout


def test_the_command_refuses_a_measure_that_it_does_not_know() -> None:
    line = [sys.executable, "-m", "benchmarks", "--only", "drain,accpet"]

    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "accpet" in done.stderr
