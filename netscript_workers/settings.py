"""Settings: what can be set, where it may stand, and a clear sentence where it can't be used.

Defaults give way to the project's file, the file to the environment, the environment to flags.
"""

from __future__ import annotations

import os
import re
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from netscript_workers.addresses import parse_networks
from netscript_workers.domain import RuntimeName
from netscript_workers.errors import ConfigurationError, nearest
from netscript_workers.lanes import default_slots
from netscript_workers.logs import LogFormat
from netscript_workers.rates import parse_rate
from netscript_workers.tokens import Tokens, parse_tokens
from netscript_workers.topics import MAX_CONCURRENCY, TopicMode, TopicRule, check_topic, parse_topic

PREFIX = "NETSCRIPT_"

_DAY = 24 * 3600
_Days: TypeAlias = Annotated[float, Field(ge=0, le=36_500)]

_PUBLIC_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~%!$&'()*+,;=:@/-]*)?")
_SECRET = frozenset({"database_url", "api_tokens"})
# What stands in a file as tables of their own, [topics.NAME], and nowhere else.
_TABLES = "topic_tables"
_NO_VARIABLE = f"{PREFIX}{_TABLES.upper()}"


def _split(value: Any) -> Any:
    """Read `a,b` as a list of names."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _two_numbers(value: Any) -> Any:
    """Read `7` or `7,90`: days for completed and for failed executions."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if isinstance(value, (int, float)):
        value = [value]
    if isinstance(value, (list, tuple)):
        parts: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - what a file may hold
        return (parts[0], 90.0) if len(parts) == 1 else tuple(parts)
    return value


def _tokens(value: Any) -> Any:
    """Read tokens, and keep nothing of them but digests."""
    if isinstance(value, Tokens):
        return value
    entries = _split(value)
    if not isinstance(entries, (list, tuple)) or not all(isinstance(one, str) for one in entries):  # pyright: ignore[reportUnknownVariableType] - what a file may hold
        msg = "write them as text, with commas between them"
        raise ValueError(msg)
    return parse_tokens(cast("list[str]", entries))


_TopicName: TypeAlias = Annotated[str, AfterValidator(check_topic)]


class TopicTable(BaseModel):
    """`[tool.netscript.topics.NAME]` in the project's file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    concurrency: int | None = Field(default=None, ge=1, le=MAX_CONCURRENCY, strict=True)
    mode: TopicMode = "combined"
    rate: str | None = None

    @field_validator("rate")
    @classmethod
    def _is_rate(cls, value: str | None) -> str | None:
        if value is not None:
            parse_rate(value)
        return value


class SettingsWarning(UserWarning):
    """A variable that begins with NETSCRIPT_ means nothing."""


class Settings(BaseSettings):
    """Everything that can be set. Fields are documented in the README's table."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="forbid",
        frozen=True,
        env_ignore_empty=True,
        populate_by_name=True,
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,  # which may be a secret
    )

    project_dir: Path = Field(default=Path(), exclude=True)
    database_url: SecretStr = SecretStr("sqlite:///netscript.db")
    queue_provider: Literal["auto", "sql", "postgres"] = "auto"
    jobs_dir: str = "jobs"
    tasks_dir: str = "tasks"
    triggers_dir: str = "triggers"
    concurrency: int | None = Field(
        default=None,
        ge=1,
        le=MAX_CONCURRENCY,
        validation_alias=AliasChoices("concurrency", "WORKERS_CONCURRENCY"),
    )
    runtime: RuntimeName = "in-process"
    kill_grace: float = Field(default=5.0, ge=0, le=_DAY)
    recycle_runs: int = Field(default=10_000, ge=1)
    recycle_mib: int = Field(default=512, ge=1)
    topics: Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(_split)] = None
    topic_tables: dict[_TopicName, TopicTable] = Field(default_factory=dict[str, TopicTable])
    api_tokens: Annotated[Tokens, NoDecode, BeforeValidator(_tokens)] = Field(
        default_factory=Tokens, exclude=True
    )
    # Requests in a minute that each token is good for; 0 for any number.
    api_rate: int = Field(default=6000, ge=0, le=10_000_000)
    host: str = "127.0.0.1"
    port: int = Field(default=8091, ge=0, le=65_535)
    # What senders call us by, for signatures of the URL: a scheme, a host, perhaps a path.
    public_url: str = ""
    # The addresses of proxies whose X-Forwarded-For is believed.
    trusted_proxies: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = ()
    max_connections: int = Field(default=4000, ge=1, le=100_000)
    max_in_flight: int = Field(default=1000, ge=1, le=100_000)
    request_timeout: float = Field(default=15.0, gt=0, le=_DAY)
    retention_days: Annotated[tuple[_Days, _Days], NoDecode, BeforeValidator(_two_numbers)] = (
        7.0,
        90.0,
    )
    idempotency_hours: float = Field(default=72.0, gt=0, le=24 * 366)
    heartbeat_seconds: float = Field(default=5.0, gt=0, le=_DAY)
    lease_seconds: float = Field(default=30.0, gt=0, le=_DAY)
    scheduler: bool = True
    shutdown_timeout: float = Field(default=30.0, ge=0, le=_DAY)
    # Of what handlers log, the lowest level that is kept; what a process prints, a flag says.
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: LogFormat = "console"
    # Where a worker serves its metrics; None for nowhere.
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(default=None, ge=0, le=65_535)

    @field_validator("queue_provider", mode="before")
    @classmethod
    def _only_sql(cls, value: Any) -> Any:
        if value == "deno-kv":
            msg = 'deno-kv belongs to the Deno edition; use "sql", which needs nothing else'
            raise ValueError(msg)
        if value in {"redis", "amqp"}:
            msg = f'{value} is not available in this version; use "auto"'
            raise ValueError(msg)
        return value

    @field_validator("runtime", mode="before")
    @classmethod
    def _by_its_name(cls, value: Any) -> Any:
        return "worker-process" if value == "web-worker" else value

    @field_validator("topics")
    @classmethod
    def _only_topics(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value == ():
            msg = "name at least one topic, or leave it unset to serve all"
            raise ValueError(msg)
        names = [parse_topic(entry)[0] for entry in value or ()]
        for name in names:
            if names.count(name) > 1:
                msg = f'the topic "{name}" stands there twice'
                raise ValueError(msg)
        return value

    @field_validator("public_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if value and not _PUBLIC_URL.fullmatch(value):
            msg = "write a scheme and a host, and a path if there is one: https://hooks.example.com"
            raise ValueError(msg)
        return value.rstrip("/")

    @field_validator("trusted_proxies")
    @classmethod
    def _only_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        parse_networks(value)
        return value

    @model_validator(mode="after")
    def _beats_in_time(self) -> Settings:
        if self.heartbeat_seconds * 3 > self.lease_seconds:
            msg = (
                f"lease_seconds={self.lease_seconds:g} must be at least three times "
                f"heartbeat_seconds={self.heartbeat_seconds:g}, "
                "or one late heartbeat would cost a living worker its executions"
            )
            raise ValueError(msg)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let flags win over the environment, and the environment over the file."""
        if isinstance(env_settings, EnvSettingsSource):
            env_settings.env_vars = _ours(env_settings.env_vars)
        return (init_settings, env_settings, _ProjectFile(settings_cls, init_settings))

    @classmethod
    def load(cls, project_dir: Path | None = None, **flags: Any) -> Settings:
        """Read the settings of a project.

        Args:
            project_dir: The project's folder; by default the current one.
            **flags: What the command line says; None where it says nothing.

        Raises:
            ConfigurationError: A value can't be used; the message names the setting as it was
                written, the value unless it is secret, and what is accepted.
        """
        place = (project_dir or Path.cwd()).absolute()
        given = {name: value for name, value in flags.items() if value is not None}
        _warn_of_unknown(os.environ)
        try:
            return cls(project_dir=place, **given)
        except ValidationError as error:
            raise _explain(error, place, given) from None

    @property
    def served_topics(self) -> tuple[str, ...] | None:
        """The names of the topics that workers serve; None for all."""
        return None if self.topics is None else tuple(parse_topic(one)[0] for one in self.topics)

    @property
    def topic_rules(self) -> tuple[TopicRule, ...]:
        """What is said of topics, in the file's tables and where they are named."""
        rules = {
            name: TopicRule(name=name, **table.model_dump())
            for name, table in self.topic_tables.items()
        }
        for name, concurrency in map(parse_topic, self.topics or ()):
            rule = rules.get(name, TopicRule(name=name))
            if concurrency is not None:
                rule = replace(rule, concurrency=concurrency)
            rules[name] = rule
        return tuple(rules.values())

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be written anywhere: the tokens as they were given, and the password."""
        given = os.environ.get(f"{PREFIX}API_TOKENS") or project_table(self.project_dir)[1].get(
            "api_tokens", ""
        )
        entries = given.split(",") if isinstance(given, str) else given
        tokens = [str(entry).rpartition(":")[2].strip() for entry in entries]
        _, _, authority = self.database_url.get_secret_value().partition("://")
        user, _, _ = authority.rpartition("@")
        password = unquote(user.partition(":")[2])
        return tuple(word for word in (*tokens, password) if word)

    @property
    def slots(self) -> int:
        """Executions at a time: as set, or 100 in-process and one per processor elsewhere."""
        return default_slots(self.runtime) if self.concurrency is None else self.concurrency

    @property
    def url(self) -> str:
        """The database URL, a relative SQLite path taken from the project's folder."""
        url = self.database_url.get_secret_value()
        scheme, separator, path = url.partition(":///")
        if separator and scheme == "sqlite" and path and not path.startswith("/"):
            return f"{scheme}:///{self.project_dir / path}"
        return url


class _ProjectFile(PydanticBaseSettingsSource):
    """`netscript.toml`, or `[tool.netscript]` in `pyproject.toml`."""

    def __init__(self, settings_cls: type[BaseSettings], init: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._place = Path(init().get("project_dir", Path()))

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        path, table = project_table(self._place)
        known = set(Settings.model_fields) - {"project_dir", _TABLES}
        for key in table:
            if key not in known:
                close = nearest(key, known)
                raise ConfigurationError(
                    f'{path.name}: there is no setting "{key}".',
                    hint=f'Did you mean "{close}"?' if close else None,
                )
        given = dict(table)
        if isinstance(given.get("topics"), Mapping):
            given[_TABLES] = given.pop("topics")
        return given


def project_table(place: Path) -> tuple[Path, Mapping[str, Any]]:
    """Return the project's settings file and what it sets.

    Raises:
        ConfigurationError: The file is no TOML.
    """
    own = place / "netscript.toml"
    shared = place / "pyproject.toml"
    for path in (own, shared):
        if not path.is_file():
            continue
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path.name} can't be read: {error}.") from error
        table = content if path is own else _table(path, content)
        if table is not None:
            return path, table
    return own, {}


def _table(path: Path, content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    tools = content.get("tool")
    table: Any = cast("dict[str, Any]", tools).get("netscript") if isinstance(tools, dict) else None
    if table is not None and not isinstance(table, dict):
        raise ConfigurationError(
            f"{path.name}: tool.netscript is no table.", hint="Begin it with [tool.netscript]."
        )
    return cast("dict[str, Any] | None", table)


def _ours(environment: Mapping[str, str | None]) -> Mapping[str, str | None]:
    """Leave out what only happens to be called as a field is, such as CONCURRENCY."""
    return {
        name: value
        for name, value in environment.items()
        if name.upper().startswith((PREFIX, "WORKERS_")) and name.upper() != _NO_VARIABLE
    }


def _warn_of_unknown(environment: Mapping[str, str]) -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} - {
        f"{PREFIX}PROJECT_DIR",
        f"{PREFIX}CONCURRENCY",
        _NO_VARIABLE,
    }
    for name in environment:
        if not name.startswith(PREFIX) or name in known or name.startswith(f"{PREFIX}TEST_"):
            continue
        # Users name their own secrets as they like; only what looks like a slip is told.
        close = get_close_matches(name, known, n=1, cutoff=0.85)
        if close:
            warnings.warn(
                f"{name} means nothing. Did you mean {close[0]}?", SettingsWarning, stacklevel=3
            )


def _explain(error: ValidationError, place: Path, flags: Mapping[str, Any]) -> ConfigurationError:
    fault = error.errors(include_url=False)[0]
    field = str(fault["loc"][0]) if fault["loc"] else ""
    field = "concurrency" if field == "WORKERS_CONCURRENCY" else field
    told = fault["msg"].removeprefix("Value error, ").removesuffix(".")
    if field == _TABLES:
        path, _ = project_table(place)
        inside = fault["loc"][1:]
        if inside[-1:] == ("[key]",):  # the name itself, which is shown as the value
            inside = ()
        where = ".".join(map(str, ("topics", *inside)))
        return ConfigurationError(
            f"{path.name}, {where}: {fault['input']!r} can't be used: {told}."
        )
    if not field:
        return ConfigurationError(f"The settings don't fit together: {told}.")
    value = "the value given" if field in _SECRET else repr(fault["input"])
    written = _where_written(field, place, flags)
    return ConfigurationError(f"{written}: {value} can't be used: {told}.")


def _where_written(field: str, place: Path, flags: Mapping[str, Any]) -> str:
    if field in flags:
        return f"--{field.replace('_', '-')}"
    variable = "WORKERS_CONCURRENCY" if field == "concurrency" else f"{PREFIX}{field.upper()}"
    if any(name.upper() == variable for name in os.environ):
        return variable
    path, _ = project_table(place)
    return f"{path.name}, {field}"
