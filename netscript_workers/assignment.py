"""How a worker works: what it was told by settings, flags or whoever embeds it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from netscript_workers.domain import RuntimeName
from netscript_workers.execution.runners.pool import Recycling
from netscript_workers.store.idempotency import DEFAULT_WINDOW
from netscript_workers.store.retention import Retention
from netscript_workers.topics import TopicPlan, TopicRule


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How a worker works.

    Attributes:
        concurrency: Executions at a time.
        topics: The topics it serves; None for all but those that are distributed.
        topic_rules: What the configuration says of topics.
        heartbeat: Seconds between renewals of its lease.
        lease: Seconds after which a silent worker is given up.
        grace: Seconds that running executions get when the worker stops.
        window: How long idempotency keys of actions are kept, in microseconds.
        retention: How long finished executions are kept.
        scheduler: Whether it also fires schedules.
        version: Shown in the list of workers.
        project: The project's folder and that of its jobs, for processes that run them.
        runtime: Where jobs run that don't say it themselves.
        kill_grace: Seconds from SIGTERM to SIGKILL for what runs in processes.
        recycling: When a process of the pool has served its time.
        keep_logs: The lowest level of log lines that are kept with executions.
        tasks_dir: The project's folder of tasks, which its jobs may name.
        task_slots: Tasks at a time; None for one per processor.
        folder: What the paths of tasks are relative to.
    """

    concurrency: int = 100
    topics: Sequence[str] | None = None
    topic_rules: Sequence[TopicRule] = ()
    heartbeat: float = 5.0
    lease: float = 30.0
    grace: float = 30.0
    window: int = DEFAULT_WINDOW
    retention: Retention = field(default_factory=Retention)
    scheduler: bool = True
    version: str = ""
    project: tuple[Path, str] | None = None
    runtime: RuntimeName = "in-process"
    kill_grace: float = 5.0
    recycling: Recycling = field(default_factory=Recycling)
    keep_logs: int = logging.INFO
    tasks_dir: str = "tasks"
    task_slots: int | None = None
    folder: Path = field(default_factory=Path)

    @property
    def plan(self) -> TopicPlan:
        """How the slots are shared among topics."""
        return TopicPlan(self.topics, self.topic_rules, self.concurrency)
