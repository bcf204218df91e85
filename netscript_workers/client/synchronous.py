"""The client for programs without an event loop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import httpx
from httpx_sse import connect_sse
from typing_extensions import TypeVar, Unpack

from netscript_workers.client import requests
from netscript_workers.client.changes import PATH, SILENCE_SECONDS, Change, Subscription
from netscript_workers.client.errors import ExecutionEndedError, error_of
from netscript_workers.client.requests import (
    AWAY,
    RETRIES,
    Attempts,
    Call,
    Conditions,
    Options,
    Triggered,
)
from netscript_workers.domain import ExecutionStatus
from netscript_workers.errors import WaitTimeoutError
from netscript_workers.jobs import JobDefinition
from netscript_workers.records import ExecutionRecord

P = TypeVar("P")


class WorkersClient:
    """Triggers jobs of a netscript server and sees what becomes of them; threads may share it.

    A call that meets a server which is away or busy is tried again, with growing pauses and as the
    server's `Retry-After` says; a trigger keeps its idempotency key, so that it is run once.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8091",
        *,
        token: str | None = None,
        timeout: float = 10.0,
        retries: int = RETRIES,
        http: httpx.Client | None = None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            url: The server's.
            token: One of its `NETSCRIPT_API_TOKENS`, if it has any.
            timeout: Seconds that an answer may take, at each attempt.
            retries: How often a call is tried again.
            http: What sends; by default a client of its own, which `close` closes.
        """
        self._is_own = http is None
        self._http = http or httpx.Client(timeout=timeout)
        self._url = url.rstrip("/")
        self._headers = requests.authorization(token)
        self._retries = retries

    def __enter__(self) -> Self:
        """Return itself; it is closed at the end."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close its connections."""
        if self._is_own:
            self._http.close()

    def trigger(
        self,
        job: JobDefinition[P, Any] | str,
        payload: P | Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[Options],
    ) -> Triggered:
        """Have a job run.

        Args:
            job: Its definition, which checks the payload here, or its id.
            payload: An instance of its model, or a mapping that validates as one.
            idempotency_key: A second trigger with it creates nothing; by default one of its own.
            **options: As `enqueue_job` takes them.

        Raises:
            PayloadInvalidError: The definition's model refuses the payload; nothing was sent.
            MissingError: There is no such job.
            ConflictError: The key was used with another payload.
            ApiError: The server refuses it otherwise, or no answer came.
        """
        call = requests.trigger(job, payload, idempotency_key=idempotency_key, options=options)
        return requests.triggered(self._send(call))

    def get(self, execution_id: str) -> ExecutionRecord:
        """Return an execution.

        Raises:
            MissingError: There is none with this id.
            ApiError: The server refuses it otherwise, or no answer came.
        """
        return requests.record(self._send(requests.get(execution_id)))

    def wait(
        self, execution_id: str, *, timeout: float | None = None, check: bool = False
    ) -> ExecutionRecord:
        """Return an execution once it has ended.

        Args:
            execution_id: Which one.
            timeout: Seconds to wait at most.
            check: Whether one that has not completed raises.

        Raises:
            WaitTimeoutError: It goes on.
            ExecutionEndedError: It has failed or was cancelled, and `check` is set.
            ApiError: The server refuses it, or no answer came.
        """
        until = None if timeout is None else time.monotonic() + timeout
        for pause in requests.looks():
            execution = requests.record(self._send(requests.get(execution_id), until))
            if requests.is_final(execution.status):
                if check and execution.status is not ExecutionStatus.COMPLETED:
                    raise ExecutionEndedError(execution)
                return execution
            left = pause if until is None else until - time.monotonic()
            if left <= 0:
                why = requests.explanation(self._send(requests.explain(execution_id)))
                raise WaitTimeoutError(timeout or 0.0, why)
            time.sleep(min(pause, left))
        raise AssertionError

    def list(self, **conditions: Unpack[Conditions]) -> Iterator[ExecutionRecord]:
        """Go through executions, the newest first; pages are read as they are needed.

        Args:
            **conditions: Of those that are meant.

        Raises:
            ApiError: The server refuses it, or no answer came.
        """
        cursor: str | None = None
        while True:
            found, cursor = requests.page_of(self._send(requests.page(cursor, conditions)))
            yield from found
            if cursor is None:
                return

    def cancel(self, execution_id: str, *, reason: str | None = None) -> ExecutionRecord:
        """Cancel an execution; one that runs is asked to end.

        Raises:
            ConflictError: It has ended.
            ApiError: The server refuses it otherwise, or no answer came.
        """
        call = requests.change(execution_id, "cancel", {}, reason)
        return requests.record(self._send(call))

    def retry(
        self,
        execution_id: str,
        *,
        payload: Mapping[str, Any] | None = None,
        reason: str | None = None,
    ) -> ExecutionRecord:
        """Run an execution again that has failed or was cancelled.

        Args:
            execution_id: Which one.
            payload: Makes a new execution with this payload instead.
            reason: Why, for the audit.

        Raises:
            ConflictError: Its state does not allow it.
            ApiError: The server refuses it otherwise, or no answer came.
        """
        body = {} if payload is None else {"payload": payload}
        call = requests.change(execution_id, "retry", body, reason)
        return requests.record(self._send(call))

    def subscribe(
        self,
        *,
        job_id: str | None = None,
        topic: str | None = None,
        execution_id: str | None = None,
        status: ExecutionStatus | str | None = None,
        last_event_id: str | None = None,
    ) -> Iterator[Change]:
        """Follow executions as they change, in commit order, without an end.

        Where the connection or the server ends, it goes on where it was, on a new one.

        Args:
            job_id: Of this job only.
            topic: Of this topic only.
            execution_id: Of this one only.
            status: What a commit left as this only.
            last_event_id: The id of the last `Update` that was seen before.

        Raises:
            ApiError: The server refuses it.
        """
        at = Subscription(job_id, topic, execution_id, status, last_event_id)
        timeout = httpx.Timeout(self._http.timeout.connect, read=SILENCE_SECONDS)
        while True:
            try:
                with connect_sse(
                    self._http,
                    "GET",
                    self._url + PATH,
                    params=at.query,
                    headers={**self._headers, **at.headers},
                    timeout=timeout,
                ) as source:
                    if not source.response.is_success:
                        source.response.read()
                    if at.check(source.response):
                        for event in source.iter_sse():
                            change = at.take(event)
                            if change is not None:
                                yield change
            except AWAY:
                pass  # it goes on where it was
            except httpx.TransportError as error:
                raise error_of(error) from None
            time.sleep(at.pause())

    def _send(self, call: Call, until: float | None = None) -> httpx.Response:
        attempts = Attempts(call, self._retries)
        while True:
            outcome = self._try(call)
            if isinstance(outcome, httpx.Response) and outcome.is_success:
                return outcome
            pause = attempts.pause_after(outcome)
            if pause is None:
                # What is wrong with a request may repeat it, with its token.
                raise error_of(outcome) from (outcome if isinstance(outcome, AWAY) else None)
            if until is not None and time.monotonic() + pause > until:
                raise error_of(outcome)
            time.sleep(pause)

    def _try(self, call: Call) -> httpx.Response | httpx.TransportError:
        try:
            return self._http.request(
                call.method,
                self._url + call.path,
                params=call.query,
                content=call.content,
                headers={**self._headers, **call.headers},
            )
        except httpx.TransportError as error:
            return error
