import datetime
import enum
import json
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from pydantic import BaseModel, RootModel

from kodosumi_koco.payload import body, serialize

VECTORS = Path(__file__).parent / "vectors"


class Weather(BaseModel):
    city: str
    when: datetime.datetime


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Box:
    size: float
    names: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Slim:
    x: int


class Pair(NamedTuple):
    a: int
    b: int


class Plain:
    def __init__(self) -> None:
        self.box = Box(1.5, ["a"])


UTC = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
VALUES: dict[str, Any] = {
    "string": 'é\n"x"',
    "integer": 3,
    "float": 1.0,
    "boolean": True,
    "dict": {"a": {"b": [1, None]}, "é": "ü"},
    "ordered": OrderedDict(a=1),
    "list": [1, "a", [2.5], {"b": None}, None],
    "tuple": (1,),
    "none": None,
    "set": {1},
    "date": datetime.date(2026, 1, 2),
    "model": Weather(city="Bergen", when=UTC),
    "dataclass": Box(2.0),
    "slots": Slim(1),
    "named tuple": Pair(1, 2),
    "object": Plain(),
    "not finite": {"a": [math.nan, math.inf]},
    "inner values": {
        "when": UTC,
        "day": datetime.date(2026, 1, 2),
        "colour": Colour.RED,
        "id": UUID(int=5),
        "path": Path("/a"),
        "set": {1},
        "bytes": b"x",
        "model": Weather(city="Oslo", when=UTC),
    },
}


class Reference(RootModel[dict[str, Any]]):
    pass


def reference(value: Any) -> str:
    """As Kodosumi does it, with pydantic."""

    def wrap(d: Any) -> Any:
        if isinstance(d, BaseModel):
            return {d.__class__.__name__: d.model_dump()}
        if isinstance(d, dict | str | int | float | bool):
            return {d.__class__.__name__: d}
        if hasattr(d, "__dict__"):
            return {d.__class__.__name__: d.__dict__}
        if hasattr(d, "__slots__"):
            return {d.__class__.__name__: {k: getattr(d, k) for k in d.__slots__}}
        if isinstance(d, list | tuple):
            return {"__list__": [wrap(item) for item in d]}
        return {"TypeError": str(d)}

    return Reference(wrap(value)).model_dump_json()


@pytest.mark.parametrize("name", VALUES)
def test_payloads_are_those_of_the_vectors_and_of_pydantic(name: str) -> None:
    vectors = json.loads((VECTORS / "payloads.json").read_text())
    assert sorted(vectors) == sorted(VALUES)
    assert serialize(VALUES[name]) == vectors[name] == reference(VALUES[name])


def test_texts_have_their_kind() -> None:
    assert body("Markdown", 'a\n"é"') == '{"Markdown":{"body":"a\\n\\"é\\""}}'


class Level(enum.IntEnum):
    LOW = 1


@pytest.mark.parametrize(("value", "payload"), [(Colour.RED, '{"Colour":"red"}'), (Level.LOW, '{"Level":1}')])
def test_enums_are_shown_by_their_value(value: enum.Enum, payload: str) -> None:
    assert serialize(value) == payload


def cyclic() -> Any:
    value: dict[str, Any] = {}
    value["a"] = value
    return value


@pytest.mark.parametrize(("value", "error"), [({"a": object()}, TypeError), (cyclic(), ValueError)])
def test_what_can_not_be_shown_is_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        serialize(value)
