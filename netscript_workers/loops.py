"""The event loop of our own processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


def run_loop(main: Callable[[], Any]) -> Any:
    """Run on uvloop where it is installed; it costs a third less per execution."""
    try:
        from uvloop import new_event_loop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.run(main())
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main())
