"""What the end of a task's process means: exit code and last line, as pure rules."""

from __future__ import annotations

import signal as signals
from typing import Any, cast

from netscript_workers.domain import Death, Reason
from netscript_workers.errors import TaskFailedError, TaskRefusedError
from netscript_workers.execution.outcome import Ending, Exited, Returned
from netscript_workers.execution.runners.capture import Capture
from netscript_workers.execution.runners.minded import Exit
from netscript_workers.execution.runners.minder import NOT_EXECUTABLE, NOT_FOUND
from netscript_workers.payloads import MAX_JSON_BYTES, to_stored_json
from netscript_workers.results import JobResult, create_failure_result
from netscript_workers.strict_json import MalformedError, parse
from netscript_workers.tasks import TaskDefinition

_LINES = 40
_DETAIL_CHARS = 8_000
_ERROR_CHARS = 500
_RESULT_MEMBERS = frozenset({"success", "data", "error", "retry"})


class ResultRefusedError(ValueError):
    """The last line was meant to be a result, and is none."""


def conclude_exit(
    task: TaskDefinition[Any], ended: Exit, stdout: Capture, stderr: Capture, *, sandboxed: bool
) -> Ending:
    """Say how an attempt has ended whose process has."""
    death = _inside(ended.death) if sandboxed else ended.death
    detail = stderr.tail(_LINES, _DETAIL_CHARS) or None
    if ended.exceeded is not None:
        return Exited(_over_limit(task, ended.exceeded, death), death, detail=detail)
    if death.exit_code != 0:
        return _failed(death, stdout, stderr, detail, killed=ended.killed)
    try:
        value = read_result(stdout)
    except ResultRefusedError as error:
        stdout.let_go()
        refused = TaskFailedError(f"The result was refused: {error}", exit_code=0)
        return Exited(refused, death, Reason.RESULT_REFUSED, retry=False, detail=detail)
    if value is None:
        stdout.let_go()
        return Returned(None)
    result = as_result(value)
    if isinstance(result, JobResult) and not result.success:
        return _told_failure(result, death, detail)
    return Returned(result)


def finished(ended: Exit, stdout: Capture) -> bool:
    """Tell whether a process that was told to end has come to its own end, with a result."""
    if ended.killed or ended.death.exit_code != 0 or ended.exceeded is not None:
        return False
    try:
        return read_result(stdout) is not None
    except ResultRefusedError:
        return False


def read_result(stdout: Capture) -> dict[str, Any] | None:
    """Return the result: the last line, if it is a JSON object; None if it was not meant to be.

    Raises:
        ResultRefusedError: It begins as one and is none, or is too long.
    """
    line, is_whole = stdout.last_line()
    if not line.startswith(b"{"):
        return None
    if not is_whole or len(line) > MAX_JSON_BYTES:
        raise ResultRefusedError(
            f"the last line of stdout is longer than {MAX_JSON_BYTES:,} bytes."
        )
    try:
        value = parse(line)
    except MalformedError as error:
        raise ResultRefusedError(
            f"the last line of stdout begins as a JSON object and is none. {error}"
        ) from error
    return cast("dict[str, Any]", value)


def as_result(value: dict[str, Any]) -> Any:
    """Read `{"success": …}` as a `JobResult`, if it says nothing that one can't."""
    success = value.get("success")
    if success is False:
        retry = value.get("retry", True)
        told = value.get("error")
        error = told if isinstance(told, str) and told else "The task told of a failure."
        return create_failure_result(error, value.get("data"), retry=retry is not False)
    if success is True and value.keys() <= _RESULT_MEMBERS and not value.get("error"):
        return JobResult(success=True, data=value.get("data"))
    return value


def _told_failure(result: JobResult, death: Death, detail: str | None) -> Exited:
    error = TaskFailedError(result.error, exit_code=death.exit_code, signal=death.signal)
    data = None if result.data is None else to_stored_json(result.data)
    return Exited(error, death, retry=result.retry, result=data, detail=detail)


def _failed(
    death: Death, stdout: Capture, stderr: Capture, detail: str | None, *, killed: bool
) -> Exited:
    try:
        value = read_result(stdout)
    except ResultRefusedError:
        value = None
    if value is not None and value.get("success") is False:
        return _told_failure(as_result(value), death, detail)
    stdout.let_go()
    last = stderr.tail(1, _ERROR_CHARS)
    code, number = death.exit_code, death.signal
    if code in {NOT_FOUND, NOT_EXECUTABLE}:
        is_missing = code == NOT_FOUND
        told = "a command was not found" if is_missing else "a command can't be executed"
        hint = "Install it, or correct its name." if is_missing else "Make it executable: chmod +x."
        said = _say(f"Exit code {code}: {told}", last)
        refused = TaskRefusedError(said, exit_code=code, hint=hint)
        return Exited(refused, death, retry=False, detail=detail)
    said = _say(_how(death, killed=killed), last)
    return Exited(TaskFailedError(said, exit_code=code, signal=number), death, detail=detail)


def _say(told: str, last: str) -> str:
    end = told if told.endswith("?") else f"{told}."
    return f"{end} Its last words: {last}" if last else end


def _how(death: Death, *, killed: bool) -> str:
    if death.signal is not None:
        told = f"It was ended by {_name(death.signal)}"
        is_foreign = death.signal == signals.SIGKILL and not killed
        return f"{told}, which its worker has not sent: out of memory?" if is_foreign else told
    if death.exit_code is None:
        return "Its end was seen by nobody"
    told = f"It exited with code {death.exit_code}"
    number = death.exit_code - 128
    return f"{told} (as a shell says {_name(number)})" if _is_signal(number) else told


def _inside(death: Death) -> Death:
    """Return how a command has ended inside the sandbox, which says it as shells do."""
    number = (death.exit_code or 0) - 128
    if not _is_signal(number):
        return death
    return Death(exit_code=None, signal=number, peak_memory=death.peak_memory)


def _is_signal(number: int) -> bool:
    return number in {one.value for one in signals.Signals}


def _name(number: int) -> str:
    return signals.Signals(number).name if _is_signal(number) else f"signal {number}"


def _over_limit(task: TaskDefinition[Any], exceeded: str, death: Death) -> TaskFailedError:
    if exceeded == "memory":
        told = f"It used more than {task.limits.memory_mib:,} MiB of memory, and was ended."
        hint = "Raise limits=Limits(memory_mib=…) if it needs more."
    else:
        told = f"It had more than {task.limits.processes:,} processes, and was ended."
        hint = "Raise limits=Limits(processes=…) if it needs more."
    return TaskFailedError(told, exit_code=death.exit_code, signal=death.signal, hint=hint)
