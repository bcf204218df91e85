"""Settings: where they come from, and what is said where they can't be used."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from netscript_workers.errors import ConfigurationError
from netscript_workers.settings import Settings, SettingsWarning
from netscript_workers.topics import TopicRule


def test_flags_win_over_the_environment_over_the_file_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Settings.load(tmp_path).port == 8091
    (tmp_path / "pyproject.toml").write_text("[tool.netscript]\nport = 1\n")
    assert Settings.load(tmp_path).port == 1
    (tmp_path / "netscript.toml").write_text("port = 2\nconcurrency = 7\n")
    assert Settings.load(tmp_path).port == 2
    assert Settings.load(tmp_path).concurrency == 7
    monkeypatch.setenv("NETSCRIPT_PORT", "3")
    monkeypatch.setenv("WORKERS_CONCURRENCY", "8")
    assert Settings.load(tmp_path).port == 3
    assert Settings.load(tmp_path).concurrency == 8
    assert Settings.load(tmp_path, port=4, concurrency=9, host=None).port == 4
    assert Settings.load(tmp_path, concurrency=9).concurrency == 9
    monkeypatch.setenv("NETSCRIPT_PORT", "")
    assert Settings.load(tmp_path).port == 2


def test_a_relative_sqlite_file_lies_in_the_project(tmp_path: Path) -> None:
    assert Settings.load(tmp_path).url == f"sqlite:///{tmp_path / 'netscript.db'}"
    (tmp_path / "netscript.toml").write_text('database_url = "sqlite:////data/x.db"\n')
    assert Settings.load(tmp_path).url == "sqlite:////data/x.db"


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("NETSCRIPT_PORT", "x", "NETSCRIPT_PORT: 'x' can't be used"),
        ("NETSCRIPT_PORT", "70000", "NETSCRIPT_PORT: '70000' can't be used"),
        ("WORKERS_CONCURRENCY", "0", "WORKERS_CONCURRENCY: '0' can't be used"),
        ("NETSCRIPT_API_RATE", "-1", "NETSCRIPT_API_RATE: '-1' can't be used"),
        ("NETSCRIPT_QUEUE_PROVIDER", "deno-kv", "belongs to the Deno edition"),
        ("NETSCRIPT_QUEUE_PROVIDER", "redis", "is not available in this version"),
        ("NETSCRIPT_QUEUE_PROVIDER", "kafka", "'auto', 'sql' or 'postgres'"),
        ("NETSCRIPT_RUNTIME", "thread", "'in-process', 'worker-process', 'subprocess'"),
        ("NETSCRIPT_KILL_GRACE", "-1", "NETSCRIPT_KILL_GRACE"),
        ("NETSCRIPT_RECYCLE_RUNS", "0", "NETSCRIPT_RECYCLE_RUNS"),
        ("NETSCRIPT_TOPICS", "payments:0", "NAME:CONCURRENCY (1 to 10,000), not 'payments:0'"),
        ("NETSCRIPT_TOPICS", "payments:many", "NAME:CONCURRENCY"),
        ("NETSCRIPT_TOPICS", "payments:1_0", "NAME:CONCURRENCY"),
        ("NETSCRIPT_TOPICS", "payments:٣", "NAME:CONCURRENCY"),
        ("NETSCRIPT_TOPICS", f"payments:{'1' * 5000}", "NAME:CONCURRENCY"),
        ("NETSCRIPT_TOPICS", "a,a:3", 'the topic "a" stands there twice'),
        ("NETSCRIPT_RETENTION_DAYS", "a", "NETSCRIPT_RETENTION_DAYS"),
        ("NETSCRIPT_RETENTION_DAYS", "1,2,3", "NETSCRIPT_RETENTION_DAYS"),
        pytest.param(
            "NETSCRIPT_LEASE_SECONDS",
            "10",
            "at least three times heartbeat_seconds=5",
            marks=pytest.mark.trap("D-28"),
        ),
        ("NETSCRIPT_IDEMPOTENCY_HOURS", "0", "NETSCRIPT_IDEMPOTENCY_HOURS"),
    ],
)
def test_a_value_that_cannot_be_used_names_its_variable_and_what_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as refusal:
        Settings.load(tmp_path)
    assert told in str(refusal.value)


def test_a_flag_and_a_file_are_named_as_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"--port: 'x' can't be used"):
        Settings.load(tmp_path, port="x")
    (tmp_path / "netscript.toml").write_text("port = 'x'\n")
    with pytest.raises(ConfigurationError, match=r"netscript.toml, port: 'x' can't be used"):
        Settings.load(tmp_path)


def test_tokens_are_refused_without_repeating_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETSCRIPT_API_TOKENS", "ci:read:geheim")
    with pytest.raises(ConfigurationError) as refusal:
        Settings.load(tmp_path)
    assert "NETSCRIPT_API_TOKENS: the value given can't be used" in str(refusal.value)
    assert "geheim" not in str(refusal.value)
    assert refusal.value.__cause__ is None
    with pytest.raises(ValidationError) as raw:
        Settings.model_validate({"api_tokens": "ci:read:geheim"})
    assert "geheim" not in str(raw.value)


def test_tokens_are_read_from_the_environment_and_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = "geheim-geheim-geheim", "geheimer-als-geheim"
    (tmp_path / "netscript.toml").write_text(f'api_tokens = ["{one}", "ci:read:{other}"]\n')
    settings = Settings.load(tmp_path)
    assert [(token.name, token.role) for token in settings.api_tokens] == [
        ("admin", "admin"),
        ("ci", "read"),
    ]
    monkeypatch.setenv("NETSCRIPT_API_TOKENS", f"{one} , deploy:operate:{other},")
    settings = Settings.load(tmp_path)
    assert [token.name for token in settings.api_tokens] == ["admin", "deploy"]
    shown = f"{settings!r} {settings} {settings.model_dump()} {list(settings.api_tokens)}"
    assert "geheim" not in shown
    monkeypatch.setenv("NETSCRIPT_API_TOKENS", "")
    (tmp_path / "netscript.toml").write_text("api_tokens = [1]\n")
    with pytest.raises(ConfigurationError, match="with commas between them"):
        Settings.load(tmp_path)


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    settings = Settings.load(tmp_path, database_url="postgresql://u:geheim@h/d")
    assert "geheim" not in repr(settings)
    assert settings.url == "postgresql://u:geheim@h/d"


def test_a_slip_is_told_with_what_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netscript.toml").write_text("prot = 1\n")
    with pytest.raises(ConfigurationError, match=r'no setting "prot"\. Did you mean "port"'):
        Settings.load(tmp_path)
    (tmp_path / "netscript.toml").write_text("port = \n")
    with pytest.raises(ConfigurationError, match=r"netscript\.toml can't be read"):
        Settings.load(tmp_path)
    (tmp_path / "netscript.toml").unlink()
    monkeypatch.setenv("NETSCRIPT_DATABSE_URL", "x")
    monkeypatch.setenv("NETSCRIPT_WEBHOOK_SECRET_OF_MINE", "x")
    with pytest.warns(SettingsWarning, match="Did you mean NETSCRIPT_DATABASE_URL"):
        Settings.load(tmp_path)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("3", (3.0, 90.0)), ("3,30", (3.0, 30.0)), (" 0.5 , 1 ", (0.5, 1.0)), (4, (4.0, 90.0))],
)
def test_retention_takes_one_number_or_two(
    tmp_path: Path, given: Any, kept: tuple[float, float]
) -> None:
    assert Settings.load(tmp_path, retention_days=given).retention_days == kept


def test_topics_are_a_list_of_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETSCRIPT_TOPICS", "payments, mails,")
    assert Settings.load(tmp_path).topics == ("payments", "mails")
    monkeypatch.setenv("NETSCRIPT_TOPICS", "")
    assert Settings.load(tmp_path).topics is None
    for given in ("", " , ", [], ["a", ""], ["n" * 513], ["a\0b"], ["\udcff"], 5, ["a:1_0"]):
        with pytest.raises(ConfigurationError, match=r"^--topics: .* can't be used: [^.]+\.$"):
            Settings.load(tmp_path, topics=given)


def test_a_list_of_topics_without_names_does_not_mean_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netscript.toml").write_text("topics = []\n")
    with pytest.raises(ConfigurationError, match=r"netscript\.toml, topics: .*name at least one"):
        Settings.load(tmp_path)
    monkeypatch.setenv("NETSCRIPT_TOPICS", " , ")
    with pytest.raises(ConfigurationError, match=r"NETSCRIPT_TOPICS: ' , ' .*name at least one"):
        Settings.load(tmp_path)


@pytest.mark.parametrize("name", ["", "a\0b", "n" * 513])
def test_a_table_whose_name_no_topic_can_have_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "netscript.toml").write_text(f"[topics.{json.dumps(name)}]\nrate = '1/s'\n")
    told = rf"netscript\.toml, topics: {re.escape(repr(name))} can't be used: a topic: name "
    with pytest.raises(ConfigurationError, match=told):
        Settings.load(tmp_path)


def test_topics_have_limits_where_they_are_named_and_in_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netscript.toml").write_text(
        "[topics.payments]\nconcurrency = 10\nmode = 'distributed'\n"
        "[topics.reports]\nrate = '100/m'\n"
    )
    settings = Settings.load(tmp_path)
    payments = TopicRule(name="payments", concurrency=10, mode="distributed")
    reports = TopicRule(name="reports", rate="100/m")
    assert settings.served_topics is None
    assert settings.topic_rules == (payments, reports)
    monkeypatch.setenv("NETSCRIPT_TOPIC_TABLES", '{"mails": {}}')  # means nothing
    settings = Settings.load(tmp_path, topics="payments:3, mails:1")
    assert settings.served_topics == ("payments", "mails")
    assert settings.topic_rules == (
        TopicRule(name="payments", concurrency=3, mode="distributed"),
        reports,
        TopicRule(name="mails", concurrency=1),
    )


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("mode = 'alone'", "netscript.toml, topics.payments.mode: 'alone' can't be used"),
        ("concurrency = true", "netscript.toml, topics.payments.concurrency: True can't be used"),
        ("concurrency = '3'", "netscript.toml, topics.payments.concurrency: '3' can't be used"),
        ("concurrency = 0", "netscript.toml, topics.payments.concurrency: 0 can't be used"),
        ("rate = 'often'", "netscript.toml, topics.payments.rate: 'often' can't be used"),
        ("slots = 3", "netscript.toml, topics.payments.slots: 3 can't be used"),
    ],
)
def test_a_table_of_a_topic_is_named_where_it_cannot_be_used(
    tmp_path: Path, written: str, told: str
) -> None:
    (tmp_path / "netscript.toml").write_text(f"[topics.payments]\n{written}\n")
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        Settings.load(tmp_path)


def test_a_worker_has_a_hundred_slots_or_one_per_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Settings.load(tmp_path).slots == 100
    for runtime in ("worker-process", "subprocess"):
        assert Settings.load(tmp_path, runtime=runtime).slots == os.cpu_count()
    monkeypatch.setenv("NETSCRIPT_RUNTIME", "web-worker")
    settings = Settings.load(tmp_path)
    assert (settings.runtime, settings.slots) == ("worker-process", os.cpu_count())
    assert Settings.load(tmp_path, concurrency=7).slots == 7
