"""Payloads: their models, their JSON, their fingerprints."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Generic, NotRequired, Required, TypeVar, cast, get_origin

from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python
from typing_extensions import TypedDict, get_type_hints, is_typeddict

from netscript_workers.errors import (
    ConfigurationError,
    PayloadInvalidError,
    PayloadTooLargeError,
)

P = TypeVar("P")

MAX_JSON_BYTES = 1_048_576
MAX_JSON_DEPTH = 200
_MAX_TOLD = 5


class TooLongError(ValueError):
    """The JSON is longer than the limit."""


def to_json(value: Any) -> str:
    """Write JSON as it is stored: sorted keys, no blanks, ASCII only.

    ASCII because PostgreSQL's text takes neither NUL nor lone surrogates, both of which JSON
    allows; escaped they pass through every database.

    Raises:
        ValueError: NaN, an infinity, or a value that JSON can't hold.
    """
    return _encode(value)


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def _make_encode() -> Callable[[Any], str]:
    """Make the encoder's C half once: `encode` makes one for every value, at twice the price.

    It looks for no cycles, which end in a RecursionError instead.
    """
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return _ENCODER.encode
    quote: Any = json.encoder.encode_basestring_ascii
    one = _ENCODER
    chunks: Any = make(
        None, one.default, quote, None, one.key_separator, one.item_separator,
        one.sort_keys, one.skipkeys, one.allow_nan,
    )  # fmt: skip

    def encode(value: Any) -> str:
        return quote(value) if type(value) is str else "".join(chunks(value, 0))

    return encode


_encode = _make_encode()


def to_stored_json(value: Any, *, limit: int = MAX_JSON_BYTES) -> str:
    """Write any JSON-able Python value, models and dates included.

    Raises:
        TooLongError: It is longer than `limit` bytes.
        ValueError: It can't be JSON; the sentence says why.
    """
    try:
        text = to_json(_jsonable(value))
    except (PydanticSerializationError, TypeError) as error:
        raise ValueError(f"It can't be written as JSON: {error}") from error
    except RecursionError as error:
        raise ValueError("It is nested too deep for JSON.") from error
    if len(text) > limit:
        raise TooLongError(f"It is {len(text):,} bytes of JSON; the limit is {limit:,}.")
    return text


def _jsonable(value: Any) -> Any:
    try:
        return to_jsonable_python(
            value, by_alias=True, inf_nan_mode="constants", fallback=_other_mapping
        )
    except UnicodeEncodeError:  # a lone surrogate in a key: JSON allows it, Pydantic does not
        return value


def _other_mapping(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - users' own data
    raise TypeError(f"a {type(value).__name__} is nothing that JSON can hold")


def fingerprint(text: str) -> str:
    """Return the SHA-256 of canonical JSON, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


class PayloadModel(Generic[P]):
    """What a job takes: validates, stores and restores its payloads."""

    def __init__(self, declared: Any, owner: str) -> None:
        """Prepare the type `declared`; `owner` names it in errors.

        Raises:
            ConfigurationError: Pydantic can't validate such a type.
        """
        self.declared = declared
        kind: Any = dict[str, Any] if declared in (dict, Any) else declared
        self._adapter: TypeAdapter[P] = make_adapter(kind, f"The payload type of {owner}")
        self._owner = owner
        self._takes_any = kind == dict[str, Any]

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the payload, as callers send it."""
        return self._adapter.json_schema(mode="validation")

    def store(self, payload: Any) -> tuple[str, str]:
        """Validate a payload that somebody gives; return its JSON and its fingerprint.

        A mapping is kept as it is given. Of a model instance all fields are kept, while the
        fingerprint covers only the ones that were set: a default that is made anew each time (an
        id, the present) does not make a redelivery look like another payload.

        Raises:
            PayloadInvalidError: The model refuses it, or it is no JSON.
            PayloadTooLargeError: It is longer than 1 MiB of JSON.
        """
        given: Any = {} if payload is None else payload
        if type(given) is dict:  # as nearly always
            self._validate(given)
            text = self._write(given)
            return text, fingerprint(text)
        try:
            kept, told = _as_given(given)
        except (ValueError, RecursionError) as error:  # a Pydantic one is a ValueError too
            raise PayloadInvalidError(f"The payload of {self._owner}: {error}") from error
        if kept is None:
            raise PayloadInvalidError(
                f"The payload of {self._owner} must be a JSON object, not {type(given).__name__}."
            )
        self._validate(kept)
        text = self._write(kept)
        same = told is kept or told == kept
        return text, fingerprint(text if same else self._write(told))

    def restore(self, text: str) -> P:
        """Validate a stored payload and return the object that the handler sees.

        Raises:
            PayloadInvalidError: The model refuses it, for it may have changed since.
        """
        given: Any = json.loads(text)
        if self._takes_any and type(given) is dict:
            return cast("P", given)
        return self._validate(given)

    def _validate(self, given: Any) -> P:
        try:
            return self._adapter.validate_python(given)
        except ValidationError as error:
            raise invalid_payload(self._owner, error) from error
        except Exception as error:  # a validator of the user's own; Pydantic lets most errors pass
            told = (
                f"The payload does not fit {self._owner}: its model raised {type(error).__name__}."
            )
            raise PayloadInvalidError(told) from error

    def _write(self, given: Any) -> str:
        try:
            text = to_stored_json(given)
        except TooLongError as error:
            raise PayloadTooLargeError(f"The payload of {self._owner}: {error}") from error
        except ValueError as error:
            raise PayloadInvalidError(f"The payload of {self._owner}: {error}") from error
        return text


def make_adapter(declared: Any, what: str) -> TypeAdapter[Any]:
    """Return what validates a type.

    Args:
        declared: The type.
        what: What it is the type of, for the refusal.

    Raises:
        ConfigurationError: Pydantic can't validate such a type.
    """
    try:
        return TypeAdapter(_known_to_pydantic(declared))
    except (PydanticUserError, NameError) as error:  # NameError: an annotation that is not defined
        raise ConfigurationError(
            f"{what}, {declared!r}, can't be validated.",
            hint="Use a Pydantic model, a dataclass, a TypedDict or dict.",
        ) from error


def _known_to_pydantic(declared: Any) -> Any:
    """Before Python 3.12 Pydantic refuses typing's TypedDict: make one of typing_extensions."""
    if sys.version_info >= (3, 12) or type(declared).__module__ != "typing":
        return declared
    if not is_typeddict(declared):
        return declared
    fields: dict[str, Any] = {}
    for name, hint in get_type_hints(declared, include_extras=True).items():
        origin: Any = get_origin(hint)
        if origin in (Required, NotRequired):
            fields[name] = hint
        else:
            kind: Any = Required if name in declared.__required_keys__ else NotRequired
            fields[name] = kind[_known_to_pydantic(hint)]
    make: Any = TypedDict
    return make(declared.__name__, fields)


def _as_given(given: Any) -> tuple[dict[str, Any] | None, Any]:
    """Return all fields of a payload, and those that whoever gave it has set."""
    if isinstance(given, BaseModel):
        kept = given.model_dump(mode="json", by_alias=True, round_trip=True)
        return kept, given.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if is_dataclass(given) and not isinstance(given, type):
        given = to_jsonable_python(given, by_alias=True)
    # Pydantic takes no other mapping than a dict.
    mapping: dict[str, Any] | None = dict(given) if isinstance(given, Mapping) else None  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - users' own data
    return mapping, mapping


def invalid_payload(owner: str, error: ValidationError) -> PayloadInvalidError:
    """Say field by field what a model refused, without repeating the values it was given."""
    details = fault_details(error)
    told = "; ".join(f"{_field(fault['loc'])}: {fault['msg']}" for fault in details[:_MAX_TOLD])
    more = f" (and {len(details) - _MAX_TOLD} more)" if len(details) > _MAX_TOLD else ""
    return PayloadInvalidError(f"The payload does not fit {owner}: {told}{more}.", details=details)


def fault_details(error: ValidationError) -> tuple[dict[str, Any], ...]:
    """Return what a model refused, field by field, without the values."""
    return tuple(
        {"loc": list(fault["loc"]), "msg": fault["msg"], "type": fault["type"]}
        for fault in error.errors(include_url=False, include_input=False, include_context=False)
    )


def _field(loc: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in loc) or "payload"
