from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from pydantic import BaseModel

from netscript_workers import JobContext, define_job_handler, job
from netscript_workers.errors import ConfigurationError, PayloadInvalidError
from netscript_workers.testing import run_job

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForTheChecker


class Payment(BaseModel):
    cents: int


@dataclass
class Point:
    x: int


class Options(TypedDict):
    depth: int


def declared(definition: Any) -> Any:
    return definition.payload_model.declared


def test_the_model_is_read_from_a_postponed_annotation() -> None:
    @job
    async def pay(ctx: JobContext[Payment]) -> None: ...

    assert declared(pay) is Payment


def test_a_model_that_a_function_defines_is_found() -> None:
    class Local(BaseModel):
        a: int

    @job
    async def bare(ctx: JobContext[Local]) -> int:
        return ctx.payload.a

    @job(id="with-options")
    def with_options(ctx: JobContext[Local]) -> int:
        return ctx.payload.a

    functional = define_job_handler(bare.handler, id="functional")

    assert declared(bare) is declared(with_options) is declared(functional) is Local
    assert run_job(with_options, {"a": 3}).data == 3


def test_a_dataclass_is_what_the_handler_sees() -> None:
    @job
    def move(ctx: JobContext[Point]) -> int:
        assert isinstance(ctx.payload, Point)
        return ctx.payload.x

    assert run_job(move, {"x": "2"}).data == 2
    assert run_job(move, Point(4)).data == 4
    with pytest.raises(PayloadInvalidError, match="x"):
        run_job(move, {})


def test_a_typed_dict_is_what_the_handler_sees() -> None:
    @job
    def dig(ctx: JobContext[Options]) -> int:
        return ctx.payload["depth"]

    assert run_job(dig, {"depth": "7"}).data == 7
    with pytest.raises(PayloadInvalidError, match="depth"):
        run_job(dig, {"depth": "deep"})


def test_a_dict_takes_any_object() -> None:
    @job
    def free(ctx: JobContext[dict[str, Any]]) -> Any:
        return ctx.payload

    assert run_job(free, {"a": [1]}).data == {"a": [1]}


def test_nothing_declared_takes_any_object() -> None:
    @job
    def bare(ctx: JobContext) -> Any:
        return ctx.payload

    names: dict[str, Any] = {"job": job}
    # As a program without annotations would; no checker reads what exec runs.
    exec("@job\ndef untyped(ctx):\n    return ctx.payload\n", names)
    for definition in (bare, names["untyped"]):
        assert declared(definition) is dict
        assert run_job(definition, {"a": 1}).data == {"a": 1}


def test_a_dict_with_typed_values_is_checked() -> None:
    @job
    def counts(ctx: JobContext[dict[str, int]]) -> int:
        return sum(ctx.payload.values())

    assert run_job(counts, {"a": 1, "b": 2}).data == 3
    with pytest.raises(PayloadInvalidError, match="a:"):
        run_job(counts, {"a": "many"})


def test_an_annotated_context_is_seen_through() -> None:
    @job
    def pay(ctx: Annotated[JobContext[Payment], "words"]) -> None: ...

    assert declared(pay) is Payment


def test_the_option_wins_over_the_annotation() -> None:
    @job(payload=Point)
    def move(ctx: JobContext[Any]) -> int:
        return ctx.payload.x  # type: ignore[no-any-return]

    assert declared(move) is Point
    assert run_job(move, {"x": 1}).data == 1


def test_a_callable_object_tells_its_model_too() -> None:
    class Payer:
        def __call__(self, ctx: JobContext[Payment]) -> int:
            return ctx.payload.cents

    made = define_job_handler(Payer(), id="payer")

    assert declared(made) is Payment
    assert run_job(made, {"cents": 5}).data == 5


def test_an_annotation_that_cannot_be_found_is_refused_with_a_way_out() -> None:
    def handler(ctx: JobContext[Payment]) -> OnlyForTheChecker: ...  # type: ignore[empty-body]

    with pytest.raises(ConfigurationError, match=r"OnlyForTheChecker.*payload=Model"):
        job(handler)
    assert declared(define_job_handler(handler, payload=Payment)) is Payment


def test_a_type_that_cannot_be_validated_is_refused() -> None:
    class Plain:
        pass

    def handler(ctx: JobContext[Plain]) -> None: ...

    with pytest.raises(ConfigurationError, match=r'job "handler".*Use a Pydantic model'):
        job(handler)
