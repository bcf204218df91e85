"""What the definitions of jobs and tasks have in common: options, and how they are checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from netscript_workers.domain import MAX_PRIORITY
from netscript_workers.errors import ConfigurationError, PayloadInvalidError
from netscript_workers.options import OptionError, check_type
from netscript_workers.payloads import PayloadModel, to_stored_json
from netscript_workers.rates import check_limits
from netscript_workers.retries import Retry
from netscript_workers.schedules import CatchUp, Overlap, Schedule, make_cron_schedule

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def common_options(
    owner: str,
    *,
    name: str,
    description: str | None,
    topic: str,
    payload: Any,
    retry: Retry,
    timeout: float | None,
    cron: str | None,
    timezone: str,
    catch_up: CatchUp,
    overlap: Overlap,
    jitter: float,
    priority: int,
    max_concurrency: int | None,
    strict_order: bool,
    rate: str | None,
    enabled: bool,
    tags: Iterable[str],
    metadata: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Check what jobs and tasks have in common; return it as the definition keeps it.

    Raises:
        ConfigurationError: An option can't work.
    """
    _check_options(owner, topic=topic, timeout=timeout, priority=priority)
    check_type(owner, "retry", retry, Retry, "a Retry, such as Retry(max_attempts=5)")
    check_type(owner, "enabled", enabled, bool, "True or False")
    check_type(owner, "strict_order", strict_order, bool, "True or False")
    kept_tags, kept_metadata = _tags(owner, tags), _metadata(owner, metadata)
    check_limits(owner, max_concurrency, rate)
    model: PayloadModel[Any] = PayloadModel(payload, owner)
    timing = {"timezone": timezone, "catch_up": catch_up, "overlap": overlap, "jitter": jitter}
    schedule = _schedule(owner, cron, timing, model)
    return {
        "name": name,
        "description": description,
        "topic": topic,
        "payload_model": model,
        "retry": retry,
        "timeout": timeout,
        "priority": priority,
        "strict_order": strict_order,
        "max_concurrency": max_concurrency,
        "rate": rate,
        "enabled": enabled,
        "tags": kept_tags,
        "metadata": kept_metadata,
        "schedule": schedule,
    }


def check_id(owner: str, job_id: Any, source: str) -> None:
    """Refuse an id that can't be one.

    Raises:
        ConfigurationError: It is no text, too long, or holds other characters.
    """
    check_type(owner, "id", job_id, str, "text")
    if not _ID.fullmatch(job_id):
        raise ConfigurationError(
            f"The {owner.split(maxsplit=1)[0]} id {job_id!r} ({source}) can't be used.",
            hint="Use letters, digits and . _ : - , at most 128, a letter or digit first.",
        )


def title(job_id: str) -> str:
    """Make a name for people of an id."""
    return job_id.replace("-", " ").replace("_", " ").capitalize()


def check_priority(priority: int, owner: str) -> None:
    """Refuse a priority that is not a whole number from 0 to 100.

    Raises:
        ConfigurationError: It is not.
    """
    # Not every user's value is typed: True, 5.5 and "5" are refused too.
    if type(priority) is not int or not 0 <= priority <= MAX_PRIORITY:
        raise ConfigurationError(
            f"{owner}: priority={priority!r} must be a whole number from 0 to {MAX_PRIORITY}.",
            hint="Higher runs first.",
        )


def _schedule(
    owner: str, cron: str | None, timing: Mapping[str, Any], model: PayloadModel[Any]
) -> Schedule | None:
    schedule = make_cron_schedule(owner, cron, **timing)
    if schedule is not None:
        try:
            model.store(None)
        except PayloadInvalidError as error:
            raise ConfigurationError(
                f"{owner}: cron runs it with an empty payload, which its model refuses.",
                hint="Give the model's fields defaults.",
            ) from error
    return schedule


def _check_options(owner: str, *, topic: str, timeout: float | None, priority: int) -> None:
    check_type(owner, "topic", topic, str, "text")
    if not _ID.fullmatch(topic):
        raise ConfigurationError(
            f"{owner}: the topic {topic!r} can't be used.",
            hint="Use letters, digits and . _ : - , at most 128, a letter or digit first.",
        )
    if timeout is not None:
        check_type(owner, "timeout", timeout, (int, float), "a number of seconds, or None")
        if not (timeout > 0 and math.isfinite(timeout)):
            raise ConfigurationError(
                f"{owner}: timeout={timeout!r} must be more than zero seconds.",
                hint="None stands for no limit.",
            )
    check_priority(priority, owner)


def _tags(owner: str, tags: Iterable[str]) -> tuple[str, ...]:
    if isinstance(tags, str):  # its letters would be the tags
        raise OptionError(f"{owner}: tags={tags!r} must be several.", hint=f"Write [{tags!r}].")
    kept = tuple(tags)
    for tag in kept:
        check_type(owner, "tags", tag, str, "a list of texts")
    return kept


def _metadata(owner: str, metadata: Mapping[str, Any] | None) -> Mapping[str, Any]:
    try:
        kept: dict[str, Any] = json.loads(to_stored_json(dict(metadata or {})))
    except (ValueError, TypeError) as error:
        raise OptionError(
            f"{owner}: the metadata can't be kept. {error}", hint="Use what JSON can hold."
        ) from error
    return kept
