"""The coverage-guided fuzzer: `python -m tests.fuzz verifiers -max_total_time=600`.

The rest of the command line is libFuzzer's. It ends with 0 when the time is over and nothing was
found; what was found is written to a file, whose name may be given instead of a folder to see it
again.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    """Fuzz one target."""
    if len(sys.argv) < 2 or sys.argv[1] not in {"verifiers", "bodies", "edge"}:
        sys.exit("usage: python -m tests.fuzz verifiers|bodies|edge [OPTION…]")
    target = sys.argv.pop(1)
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["netscript_triggers", "netscript_workers"]):
        from tests.fuzz import edge, targets
        from tests.fuzz.choices import Choices

    def fuzz(found: Callable[[Choices], None]) -> None:
        def try_one(data: bytes) -> None:
            found(Choices(data))

        atheris.Setup(sys.argv, try_one)
        atheris.Fuzz()

    if target != "edge":
        fuzz(targets.TARGETS[target])
        return
    os.environ.update(edge.ENVIRONMENT)
    with tempfile.TemporaryDirectory() as place, edge.wire(Path(place)) as wire:
        fuzz(wire)


if __name__ == "__main__":
    main()
