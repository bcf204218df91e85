"""Handlers that do harm, and that must harm nobody but themselves."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from netscript_workers import JobContext, Retry, job

ONCE = Retry(max_attempts=1)

# Ignores SIGTERM, and tells its number when it does.
DEAF = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(sys.argv[1], "a") as file:
    file.write(f"{os.getpid()}\\n")
time.sleep(600)
"""


def spawn_deaf(pids: str, *, count: int = 1, **options: Any) -> None:
    """Start processes that ignore SIGTERM, and wait until they do."""
    path = Path(pids)
    before = len(path.read_text().split()) if path.exists() else 0
    for _ in range(count):
        subprocess.Popen([sys.executable, "-S", "-c", DEAF, pids], **options)
    while not path.exists() or len(path.read_text().split()) < before + count:
        time.sleep(0.01)


def note(ctx: JobContext[dict[str, str]], *words: object) -> None:
    """Write a line to the file that the payload names."""
    line = " ".join(map(str, (ctx.id, os.getpid(), *words)))
    descriptor = os.open(ctx.payload["record"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


@job(id="good")
async def good(ctx: JobContext) -> int:
    return os.getpid()


@job(id="dies", retry=ONCE)
async def dies(ctx: JobContext[dict[str, str]]) -> None:
    """Die in the way that the payload says."""
    faulthandler.disable()
    match ctx.payload["how"]:
        case "segfault":
            import ctypes

            ctypes.string_at(0)
        case "exit":
            os._exit(7)
        case _:  # as the kernel does it where memory runs out
            os.kill(os.getpid(), signal.SIGKILL)


@job(id="deaf", timeout=0.5, retry=ONCE)
def deaf(ctx: JobContext[dict[str, str]]) -> None:
    """Start processes that ignore SIGTERM, one of them far away, and never end."""
    spawn_deaf(ctx.payload["pids"])
    spawn_deaf(ctx.payload["pids"], start_new_session=True)
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(600)


@job(id="deaf-async", timeout=None)
async def deaf_async(ctx: JobContext[dict[str, str]]) -> None:
    """Do so with a blocked loop, and without a timeout."""
    spawn_deaf(ctx.payload["pids"])
    await ctx.report_progress(1, str(os.getpid()))
    time.sleep(600)


@job(id="leaves-a-thread")
def leaves_a_thread(ctx: JobContext) -> int:
    """Leave a thread behind that goes on using the context."""

    def go_on() -> None:
        with contextlib.suppress(Exception):
            while True:
                ctx.log.info("still here")
                ctx.report_progress(99, "nobody asked")
                time.sleep(0.001)
                ctx.step(f"late-{time.monotonic_ns()}", int)

    threading.Thread(target=go_on).start()
    return os.getpid()


@job(id="leaks", retry=ONCE)
def leaks(ctx: JobContext[dict[str, int]]) -> int:
    """Keep so many MiB for ever."""
    _kept.append(bytearray(os.urandom(4096)) * (ctx.payload["mib"] * 256))
    return os.getpid()


_kept: list[bytearray] = []


@job(id="two-steps", retry=ONCE)
async def two_steps(ctx: JobContext[dict[str, str]]) -> str:
    """Kill its process between two steps, the first time."""

    def effect(name: str) -> str:
        note(ctx, name)
        return name

    await ctx.step("one", effect, "one")
    flag = Path(ctx.payload["flag"])
    if not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    await ctx.step("two", effect, "two")
    return "done"


@job(id="modules")
def modules(ctx: JobContext) -> list[str]:
    """Tell what a process of ours has loaded."""
    return sorted({name.partition(".")[0] for name in sys.modules})


@job(id="in-a-pool", runtime="worker-process")
def in_a_pool(ctx: JobContext[dict[str, str]]) -> int:
    """Run in a pool until a file is gone, whatever the worker does with others."""
    note(ctx, "start")
    while Path(ctx.payload["hold"]).exists():
        time.sleep(0.01)
    return os.getpid()


@job(id="on-its-own", runtime="subprocess")
def on_its_own(ctx: JobContext) -> int:
    return os.getpid()


@job(id="at-home", runtime="in-process")
def at_home(ctx: JobContext) -> int:
    return os.getpid()
