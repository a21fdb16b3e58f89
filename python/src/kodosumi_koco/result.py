"""A result as JSON, without loss or not at all."""

import dataclasses
import enum
import json
import math
import re
import sys
from collections.abc import Mapping
from typing import Any

from kodosumi_koco.errors import UnserializableResult

MAX_DEPTH = 100
"""koco refuses results that nest deeper."""
MAX_BYTES = 32 * 1024
"""Of larger results koco keeps size and digest only."""

_EXACT = 1 << 63
_MAX_PATH = 200


def to_json(value: Any) -> bytes:
    """The value as compact JSON. Raises :class:`UnserializableResult`, which names the place of what isn't JSON."""
    plain = _plain(value, "$", 0)
    return json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _plain(value: Any, path: str, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        return _plain(value.value, path, depth)
    if isinstance(value, str):
        return _string(value, path)
    if isinstance(value, int):
        return _integer(int(value), path)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _refused(path, f"{value} is not JSON")
        return float(value)
    if depth >= MAX_DEPTH:
        raise _refused(path, f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        return {_key(key, path): _plain(item, _below(path, key), depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _plain(getattr(value, name), _below(path, name), depth + 1) for name in names}
    if is_model(type(value)):
        return _plain(_dump(value, path), path, depth)
    raise _refused(path, f"a value of type {type(value).__qualname__} is not JSON")


def is_model(kind: Any) -> bool:
    """Whether it is a class of pydantic models. Never imports pydantic: without it there are none."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


def _dump(value: Any, path: str) -> Any:
    try:
        return value.model_dump(mode="json")
    except Exception as error:
        raise _refused(path, f"{type(value).__qualname__}: {error}") from error


def _string(value: str, path: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _refused(path, f"the text is not Unicode: {error.reason} at {error.start}") from error
    return str.__str__(value)


def _integer(value: int, path: str) -> int:
    # The API server keeps larger ones as doubles.
    if not -_EXACT <= value < _EXACT and not _fits_double(value):
        raise _refused(path, "the integer would lose digits: return it as a string")
    return value


def _fits_double(value: int) -> bool:
    try:
        return int(float(value)) == value
    except OverflowError:
        return False


def _key(key: Any, path: str) -> str:
    if not isinstance(key, str) or isinstance(key, enum.Enum):
        raise _refused(path, f"the key {key!r} of type {type(key).__qualname__} is not a string")
    return _string(key, path)


def _below(path: str, key: Any) -> str:
    name = str(key)
    return f"{path}.{name}" if re.fullmatch(r"[A-Za-z_]\w*", name) else f"{path}[{json.dumps(name)}]"


def _refused(path: str, why: str) -> UnserializableResult:
    place = path if len(path) <= _MAX_PATH else f"{path[:_MAX_PATH]}…"
    return UnserializableResult(f"{place}: {why}")
