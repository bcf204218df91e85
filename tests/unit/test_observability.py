"""What docs, dashboards and alerts say of metrics is what `/metrics` really tells."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from netscript_workers.telemetry.metering import INSTRUMENTS, Instrument
from tests.support import ROOT

DASHBOARDS = sorted((ROOT / "docs" / "grafana").glob("*.json"))
ALERTS = ROOT / "docs" / "prometheus" / "alerts.yml"
PAGE = ROOT / "docs" / "observability.md"
# Each instrument is used once, and what comes of it is printed.
EVERYTHING = """
from netscript_workers.telemetry import exporting
from netscript_workers.telemetry.metering import METERING
exporting.start("shop", scraped=True)
for one, count in METERING.counts.items():
    count.add(1, *("x" for _ in one.attributes))
for one, gauge in METERING.gauges.items():
    gauge.watch(lambda one=one: [(("x",) * len(one.attributes), 1)])
for one, distribution in METERING.distributions.items():
    distribution.record(1.0, *("x" for _ in one.attributes))
print(exporting.scrape().decode())
"""


@cache
def exported() -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EVERYTHING],
        capture_output=True,
        text=True,
        check=True,
    )
    return "\n".join(line for line in done.stdout.splitlines() if "netscript_" in line) + "\n"


@cache
def labels_of() -> dict[str, frozenset[str]]:
    """Return the labels of every series that is exported, by its name."""
    found: dict[str, frozenset[str]] = {}
    for line in exported().splitlines():
        if not line.startswith("#"):
            name, _, rest = re.split(r"([{ ])", line, maxsplit=1)
            found[name] = frozenset(re.findall(r'(\w+)="', rest))
    return found


def prometheus_name(one: Instrument) -> str:
    name = one.name.replace(".", "_")
    name += "_seconds" if one.unit == "s" else ""
    return f"{name}_total" if one.kind == "counter" else name


def row(one: Instrument) -> str:
    by = ", ".join(f"`{name}`" for name in one.attributes)
    cells = (f"`{one.name}`", f"`{prometheus_name(one)}`", one.kind, one.where, by)
    return f"| {' | '.join((*cells, one.description))} |".replace("|  |", "| |")


def test_every_instrument_is_exported_under_the_name_that_the_page_says() -> None:
    names = labels_of()
    page = PAGE.read_text(encoding="utf-8").splitlines()
    for one in INSTRUMENTS:
        name = prometheus_name(one)
        name = f"{name}_bucket" if one.kind == "histogram" else name
        assert name in names
        assert names[name] - {"le"} == {label.replace(".", "_") for label in one.attributes}
        assert row(one) in page, row(one)
    rows = [line for line in page if line.startswith("| `netscript.")]
    assert rows == [row(one) for one in INSTRUMENTS]


def test_promtool_finds_nothing_to_say_of_the_text() -> None:
    assert promtool(exported(), "check", "metrics") == ""


def test_promtool_finds_nothing_to_say_of_the_alerts() -> None:
    assert "SUCCESS" in promtool(None, "check", "rules", str(ALERTS))


def test_promtool_takes_the_scrape_configuration() -> None:
    path = ALERTS.with_name("scrape.yml")
    assert "SUCCESS" in promtool(None, "check", "config", "--syntax-only", str(path))


def promtool(given: str | None, *command: str) -> str:
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    done = subprocess.run(
        [path, *command], input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def check_expression(expression: str) -> None:
    """Check that the series and the labels that an expression names are exported."""
    used = set(re.findall(r"\bnetscript_[a-z_]+", expression))
    series = used & labels_of().keys()
    assert series, expression
    labels = {label for name in series for label in labels_of()[name]}
    assert used - series <= labels, expression


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_names_what_there_is(path: Path) -> None:
    board: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert board["uid"] == f"netscript-{path.stem}"
    assert board["title"]
    assert board["schemaVersion"] >= 36
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids)) > 5
    for panel in board["panels"]:
        assert panel["title"]
        assert panel["type"] in ("timeseries", "stat")
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["targets"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            check_expression(target["expr"])
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert label in target["expr"]
    (source, *more) = board["templating"]["list"]
    assert source["name"] == "datasource"
    for variable in more:
        check_expression(variable["query"])
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(places) == len(set(places))


def test_there_are_two_dashboards() -> None:
    assert [path.stem for path in DASHBOARDS] == ["jobs", "overview"]


def test_alerts_name_what_there_is() -> None:
    (group,) = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    names = [rule["alert"] for rule in group["rules"]]
    assert len(names) == len(set(names)) > 5
    for rule in group["rules"]:
        check_expression(rule["expr"])
        assert rule["annotations"]["summary"]


def test_an_expression_that_names_what_there_is_not_is_found_out() -> None:
    for wrong in (
        "sum(netscript_workers_alive)",
        "sum by (netscript_topic) (netscript_workers_live)",
    ):
        with pytest.raises(AssertionError):
            check_expression(wrong)
