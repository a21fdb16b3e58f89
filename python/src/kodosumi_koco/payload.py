"""Payloads of events, as Kodosumi writes them: a JSON object with one key, the name of the value's class."""

import dataclasses
import datetime
import decimal
import enum
import json
import math
import pathlib
import uuid
from typing import Any

from kodosumi_koco.result import is_model


def serialize(value: Any) -> str:
    """The payload of a value. Raises ``TypeError`` or ``ValueError`` for what has none."""
    try:
        return json.dumps(_finite(_wrap(value)), ensure_ascii=False, separators=(",", ":"), default=_default)
    except RecursionError as error:
        raise ValueError("it nests too deeply to be shown") from error


def body(kind: str, text: str) -> str:
    """The payload of a text that is to be shown as ``Markdown``, ``HTML`` or ``Text``."""
    return json.dumps({kind: {"body": text}}, ensure_ascii=False, separators=(",", ":"))


def _wrap(value: Any) -> dict[str, Any]:
    name = type(value).__name__
    if isinstance(value, enum.Enum):
        return {name: value.value}
    if is_model(type(value)):
        return {name: value.model_dump()}
    if isinstance(value, dict | str | int | float | bool):
        return {name: value}
    if hasattr(value, "__dict__"):
        return {name: vars(value)}
    if hasattr(value, "__slots__"):
        return {name: {slot: getattr(value, slot) for slot in value.__slots__}}
    if isinstance(value, list | tuple):
        return {"__list__": [_wrap(item) for item in value]}
    return {"TypeError": str(value)}


def _finite(value: Any) -> Any:
    """NaN and the infinities are null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _default(value: Any) -> Any:  # within dicts and objects
    if is_model(type(value)):
        return _finite(value.model_dump())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _finite(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, datetime.datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, set | frozenset):
        return [_finite(item) for item in value]
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, uuid.UUID | decimal.Decimal | pathlib.PurePath):
        return str(value)
    raise TypeError(f"a value of type {type(value).__qualname__} can't be shown")
