from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from netscript_workers import JobContext, define_job_handler, job
from netscript_workers.errors import ConfigurationError
from netscript_workers.options import OptionError


def handler(ctx: JobContext) -> None: ...


def refusal_of(target: Any = handler, **options: Any) -> str:
    with pytest.raises(ConfigurationError) as refusal:
        define_job_handler(target, **options)
    return str(refusal.value)


@pytest.mark.parametrize(
    "job_id",
    ["", " ", "-a", ".a", "a b", "a/b", "ä", "a\n", "a" * 129, "<lambda>", "a\0", "../a"],
)
def test_an_id_that_cannot_stand_in_a_url_is_refused(job_id: str) -> None:
    told = refusal_of(id=job_id)

    assert repr(job_id) in told
    assert "Use letters, digits" in told


@pytest.mark.parametrize("job_id", ["a", "A1", "a.b_c:d-e", "0", "a" * 128])
def test_other_ids_are_taken(job_id: str) -> None:
    assert define_job_handler(handler, id=job_id).id == job_id


def test_a_lambda_needs_an_id() -> None:
    nameless: Callable[[JobContext], None] = lambda ctx: None  # noqa: E731 - that is the point
    assert "'<lambda>'" in refusal_of(nameless)
    assert define_job_handler(lambda _ctx: None, id="fine").id == "fine"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"id": 5}, "id=5 must be text"),
        ({"topic": ""}, "Use letters, digits"),
        ({"topic": "a b"}, "'a b'"),
        ({"topic": None}, "topic=None must be text"),
        ({"timeout": 0}, "None stands for no limit"),
        ({"timeout": -1}, "timeout=-1"),
        ({"timeout": math.nan}, "timeout=nan"),
        ({"timeout": math.inf}, "timeout=inf"),
        ({"timeout": "30"}, "must be a number of seconds, or None"),
        ({"timeout": True}, "timeout=True"),
        ({"priority": -1}, "from 0 to 100"),
        ({"priority": 101}, "from 0 to 100"),
        ({"priority": 5.0}, "a whole number"),
        ({"priority": "5"}, "priority='5'"),
        ({"priority": True}, "priority=True"),
        ({"retry": 3}, "such as Retry(max_attempts=5)"),
        ({"retry": None}, "retry=None"),
        ({"enabled": "no"}, "must be True or False"),
        ({"strict_order": 1}, "must be True or False"),
        ({"tags": "mail"}, "Write ['mail']"),
        ({"tags": [1]}, "a list of texts"),
        ({"metadata": {"a": object()}}, "Use what JSON can hold"),
        ({"metadata": {"a": math.nan}}, "Use what JSON can hold"),
        ({"metadata": 5}, "Use what JSON can hold"),
        ({"runtime": "in-proces"}, 'Did you mean "in-process"?'),
        ({"runtime": "kubernetes"}, "Use one of"),
        ({"payload": object()}, "Use a Pydantic model, a dataclass"),
        ({"max_concurrency": 0}, "max_concurrency=0 must be from 1 to"),
        ({"max_concurrency": -1}, "pause the topic to run none"),
        ({"max_concurrency": 2**31}, "from 1 to 2147483647"),
        ({"max_concurrency": 1.0}, "a whole number, or None"),
        ({"max_concurrency": True}, "max_concurrency=True"),
        ({"rate": 10}, "rate=10 must be text such as 10/s"),
        ({"rate": "10"}, "rate='10' is no rate. Write how many and in what time, such as 10/s"),
        ({"rate": "0/s"}, "rate='0/s' is no rate"),
        ({"rate": "10/w"}, "1000/h or 1/d"),
        ({"rate": "10 / s"}, "is no rate"),
        ({"rate": "-1/s"}, "is no rate"),
        ({"rate": "10/s\n"}, "is no rate"),
    ],
)
def test_a_value_that_cannot_work_is_refused_with_what_can(
    options: dict[str, Any], told: str
) -> None:
    assert told in refusal_of(**options)


def test_a_misspelt_option_names_the_one_that_was_meant() -> None:
    told = refusal_of(timout=5)

    assert told == 'job "handler": there is no option "timout". Did you mean "timeout"?'


def test_an_option_like_no_other_lists_those_there_are() -> None:
    assert "There are: id, name," in refusal_of(zzzz=5)


def test_a_misspelt_option_of_the_decorator_is_refused_too() -> None:
    options: dict[str, Any] = {"timout": 5}

    with pytest.raises(OptionError, match="timeout"):
        job(**options)(handler)


def test_a_wrong_name_or_type_is_a_type_error_too() -> None:
    options: dict[str, Any] = {"retry": 3}

    with pytest.raises(TypeError):
        define_job_handler(handler, **options)


def test_a_handler_that_takes_no_context_is_refused() -> None:
    def nothing() -> None: ...

    def two(ctx: Any, more: Any) -> None: ...

    def named(*, ctx: Any) -> None: ...

    for wrong in (nothing, two, named):
        assert "async def handler(ctx: JobContext[Payload])" in refusal_of(wrong)


def test_a_generator_is_refused() -> None:
    def lines(ctx: Any) -> Iterator[int]:
        yield 1

    async def alines(ctx: Any) -> AsyncIterator[int]:
        yield 1

    for wrong in (lines, alines):
        assert "Return the result instead." in refusal_of(wrong)


def test_what_is_no_function_is_refused() -> None:
    assert "is not a function" in refusal_of(None, id="a")
    assert "is not a function" in refusal_of("handler", id="a")


def test_a_job_is_not_decorated_twice() -> None:
    assert "Decorate it once." in refusal_of(job(handler), id="a")


def test_a_refusal_says_where_the_handler_is() -> None:
    assert f"{__name__}.handler" in refusal_of(id="a b")
