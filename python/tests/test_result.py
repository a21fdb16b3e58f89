import collections
import enum
import json
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel

from kodosumi_koco import UnserializableResult
from kodosumi_koco.result import MAX_DEPTH, to_json


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    SMALL = 1


class Pair(NamedTuple):
    a: int
    b: int


class Point(BaseModel):
    x: int


@dataclass
class Box:
    point: Point
    colour: Colour


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        ("é\u0000", '"é\\u0000"'),
        ((1, 2.5, True), "[1,2.5,true]"),
        ({"a": [Colour.RED, Size.SMALL]}, '{"a":["red",1]}'),
        (Box(Point(x=1), Colour.RED), '{"point":{"x":1},"colour":"red"}'),
        (collections.OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
        (Pair(1, 2), "[1,2]"),
        (2**63 - 1, "9223372036854775807"),
        (2**64, "18446744073709551616"),  # a double holds it
    ],
)
def test_json_stays_json(value: Any, text: str) -> None:
    assert to_json(value).decode() == text


def test_depth_is_counted_as_koco_does() -> None:
    assert json.loads(to_json(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    with pytest.raises(UnserializableResult, match="nested deeper than 100 levels"):
        to_json(nested(MAX_DEPTH + 1))


def cyclic() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, {2}]}, "$.a[1]: a value of type set is not JSON"),
        ({"a b": b"x"}, '$["a b"]: a value of type bytes is not JSON'),
        ({"a": {1: 2}}, "$.a: the key 1 of type int is not a string"),
        ([float("nan")], "$[0]: nan is not JSON"),
        ([2**63 + 1], "$[0]: the integer would lose digits: return it as a string"),
        ([10**400], "$[0]: the integer would lose digits: return it as a string"),
        (["\ud800"], "$[0]: the text is not Unicode: surrogates not allowed at 0"),
        ((n for n in [1]), "$: a value of type generator is not JSON"),
        (Box, "$: a value of type type is not JSON"),
        (cyclic(), "$[0][0]"),
    ],
)
def test_what_would_lose_something_is_refused(value: Any, message: str) -> None:
    with pytest.raises(UnserializableResult) as raised:
        to_json(value)
    assert str(raised.value).startswith(message)
    assert len(str(raised.value)) < 300
