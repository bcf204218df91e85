"""`triggers test`: a delivery as its sender would make it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from netscript_triggers.cli.completing import trigger_ids
from netscript_triggers.cli.given import json_of
from netscript_triggers.cli.opening import opened
from netscript_triggers.cli.outcomes import discovered, follow, tell
from netscript_triggers.cli.output import AsJson, ProjectDir, clean, load_settings, print_json
from netscript_workers.errors import NetscriptError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from netscript_triggers.definitions import WebhookDefinition
    from netscript_triggers.records import EventDetail


def deliver(
    trigger_id: Annotated[
        str, typer.Argument(metavar="TRIGGER", show_default=False, autocompletion=trigger_ids)
    ],
    payload: Annotated[str, typer.Option(help="The payload, as JSON.")] = "{}",
    url: Annotated[
        str | None,
        typer.Option(help="The server; by default the project's own.", show_default=False),
    ] = None,
    path: Annotated[
        str | None,
        typer.Option(
            help="Where to post, if the webhook's path has parameters: /webhooks/acme.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for its handler, if it runs later.")
    ] = 5.0,
    project: ProjectDir = Path(),
    as_json: AsJson = False,
) -> None:
    """Sign a delivery as a webhook's sender would, post it, and show what became of it."""
    import httpx

    from netscript_triggers.registry import webhook_named
    from netscript_triggers.testing import signed_request

    value = json_of(payload)
    settings = load_settings(project)
    webhook = webhook_named(discovered(project), trigger_id)
    request = signed_request(
        webhook,
        value,
        path_params=_parameters(webhook, path),
        public_url=settings.public_url,
    )
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    target = f"{(url or f'http://{host}:{settings.port}').rstrip('/')}{request.path}"
    try:
        answer = httpx.request(
            request.method,
            target,
            content=request.body,
            headers=dict(request.headers),
            trust_env=False,
            timeout=30,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NetscriptError(
            f"{target} does not answer ({type(error).__name__}).",
            hint="Start a server: netscript dev",
        ) from None
    told = _json_of(answer)
    detail: EventDetail | None = None
    if answer.status_code == 202 and isinstance(told, dict):
        event_id = cast("dict[str, Any]", told).get("event_id")
        detail = _followed(project, str(event_id), wait)
    _say(answer.status_code, target, told, detail, as_json=as_json)
    is_good = answer.status_code == 202 and (
        detail is None or detail.event.status.value in {"completed", "deferred"}
    )
    if not is_good:
        raise typer.Exit(1)


def _parameters(webhook: WebhookDefinition[Any], path: str | None) -> Mapping[str, str]:
    from netscript_triggers.paths import has_parameters, parameters_of

    found = None if path is None else parameters_of(webhook.path, path)
    if found is None and (path is not None or has_parameters(webhook.path)):
        raise typer.BadParameter(
            f"write a path such as {webhook.path}, each parameter filled in.", param_hint="--path"
        )
    return found or {}


def _followed(project: Path, event_id: str, seconds: float) -> EventDetail | None:
    """Follow it where the server's database is this project's own; else only the answer is told."""
    from netscript_workers.errors import EventNotFoundError

    try:
        with opened(project) as store:
            return follow(store, event_id, seconds)
    except EventNotFoundError:
        return None


def _json_of(answer: Any) -> Any:
    try:
        return answer.json()
    except ValueError:
        return answer.text[:1000]


def _say(status: int, target: str, told: Any, detail: EventDetail | None, *, as_json: bool) -> None:
    if as_json:
        from netscript_triggers.records import whole

        event = None if detail is None else whole(detail)
        print_json({"url": target, "status": status, "answer": told, "event": event})
        return
    typer.echo(f"{target} answered {status}:")
    typer.echo(json.dumps(told, indent=2) if isinstance(told, dict) else clean(told))
    if detail is not None:
        tell(detail)
