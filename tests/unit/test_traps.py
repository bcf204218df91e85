"""The table of traps: what it names exists, and what guards a trap stands in it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support import ROOT

TABLE = ROOT / "docs" / "traps.md"
ROW = re.compile(r"^\| (D-\d+) \|.*$", re.MULTILINE)
LINK = re.compile(r"\]\(\.\./([\w/.]+)\)((?: `test_\w+`,?)*)")
MARK = re.compile(r'mark\.trap\("(D-\d+)"\)')


def sources() -> dict[Path, str]:
    return {path: path.read_text() for path in (ROOT / "tests").rglob("*.py")}


def test_every_test_that_the_table_names_stands_where_it_says() -> None:
    for place, names in LINK.findall(TABLE.read_text()):
        source = (ROOT / place).read_text()
        for name in re.findall(r"test_\w+", names):
            assert re.search(rf"def {name}\(", source), f"{name} is not in {place}"


def test_the_marks_and_the_table_speak_of_the_same_traps() -> None:
    marked = {trap for source in sources().values() for trap in MARK.findall(source)}
    assert marked == set(ROW.findall(TABLE.read_text()))
