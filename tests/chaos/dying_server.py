"""`netscript serve` that dies at a chosen point of a delivery; run as a program by a test."""

from __future__ import annotations

import os
import sys
from typing import Any

from netscript_triggers import ingress
from netscript_triggers.cli import main
from tests.faults import Points


def arm(die_at: int) -> None:
    """Count from the first delivery on."""
    deliver, respond = ingress.Ingress._deliver, ingress._respond
    armed: list[Points] = []

    async def counted(self: Any, *args: Any) -> bytes:
        if not armed:
            armed.append(Points(die_at, lambda name: os.write(2, f"dies at: {name}\n".encode())))
        return await deliver(self, *args)

    async def answered(*args: Any) -> None:
        for points in armed:
            points.passed("the answer")
        await respond(*args)

    ingress.Ingress._deliver = counted  # type: ignore[assignment, method-assign]
    ingress._respond = answered  # type: ignore[assignment]


if __name__ == "__main__":
    arm(int(sys.argv[1]))
    sys.argv[1:] = sys.argv[2:]
    main()
