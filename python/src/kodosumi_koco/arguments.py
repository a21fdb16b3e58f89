"""From a job's inputs to the arguments of its entry point.

A parameter named ``inputs``, or a single one that is annotated as a dict, a dataclass or a pydantic model, takes all
inputs. Otherwise each parameter takes the input of its name. Dataclasses and models are made of what they take.
A parameter named ``tracer`` takes the tracer.
"""

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from kodosumi_koco.errors import InvalidInputs
from kodosumi_koco.result import is_model
from kodosumi_koco.tracer import Tracer

Arguments = tuple[list[Any], dict[str, Any]]
"""The positional ones, and those by name."""

_NAMED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def bind(function: Callable[..., Any], inputs: dict[str, Any], tracer: Tracer) -> Arguments:
    """The arguments to call the function with. Raises :class:`InvalidInputs`."""
    signature = _signature(function)
    parameters = [p for p in signature.parameters.values() if p.kind in _NAMED]
    given: dict[str, Any] = {p.name: tracer for p in parameters if p.name == "tracer"}
    parameters = [p for p in parameters if p.name not in given]
    whole = next((p for p in parameters if p.name == "inputs"), None)
    if whole is None and len(parameters) == 1 and _takes_all(parameters[0].annotation):
        whole = parameters[0]
    if whole is not None:
        given[whole.name] = converted(inputs, whole.annotation, "inputs")
        parameters.remove(whole)
    rest = {} if whole is not None else dict(inputs)
    for parameter in parameters:
        if parameter.name in rest:
            value = rest.pop(parameter.name)
            given[parameter.name] = converted(value, parameter.annotation, f"inputs.{parameter.name}")
        elif parameter.default is inspect.Parameter.empty:
            raise InvalidInputs(f"inputs.{parameter.name} is missing")
    return _arguments(signature, given, rest)


def _arguments(signature: inspect.Signature, given: dict[str, Any], rest: dict[str, Any]) -> Arguments:
    positional, named = [], {}
    takes_rest = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            positional.append(given.get(name, parameter.default))
        elif name in given:
            named[name] = given[name]
    if rest and not takes_rest:
        raise InvalidInputs(f"the entry point takes no input {', '.join(sorted(rest))}")
    return positional, {**named, **rest}


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except (NameError, SyntaxError):  # an annotation that exists for type checkers only
        return inspect.signature(function)


def _takes_all(annotation: Any) -> bool:
    plain = typing.get_origin(annotation) or annotation
    return plain in (dict, Mapping) or dataclasses.is_dataclass(plain) or is_model(plain) or typing.is_typeddict(plain)


def converted(value: Any, annotation: Any, path: str) -> Any:
    """The value as its annotation says: only dataclasses and models are made, and their plain fields checked."""
    if is_model(annotation):
        return _model(value, annotation, path)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return _dataclass(value, annotation, path)
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _union(value, parts, path)
    if origin is typing.Annotated:
        return converted(value, parts[0], path)
    if origin is typing.Literal:
        return _expect(value in parts, value, path, " or ".join(map(repr, parts)))
    if annotation is list or origin is list:
        item = parts[0] if parts else Any
        items = _expect(isinstance(value, list), value, path, "a list")
        return [converted(each, item, f"{path}[{i}]") for i, each in enumerate(items)]
    if annotation in (dict, Mapping) or origin in (dict, Mapping):
        item = parts[1] if parts else Any
        entries = _expect(isinstance(value, dict), value, path, "an object")
        return {key: converted(each, item, f"{path}.{key}") for key, each in entries.items()}
    return _scalar(value, annotation, path)


def _scalar(value: Any, annotation: Any, path: str) -> Any:
    if annotation is str:
        return _expect(isinstance(value, str), value, path, "a string")
    if annotation is bool:
        return _expect(isinstance(value, bool), value, path, "true or false")
    if annotation is int:
        return _expect(isinstance(value, int) and not isinstance(value, bool), value, path, "an integer")
    if annotation is float:  # 1.0 is 1 by the time that it arrives
        return float(_expect(isinstance(value, int | float) and not isinstance(value, bool), value, path, "a number"))
    if annotation in (None, type(None)):
        return _expect(value is None, value, path, "null")
    return value


def _expect(fits: bool, value: Any, path: str, what: str) -> Any:
    if not fits:
        raise InvalidInputs(f"{path} must be {what}, and is {_json_type(value)}")
    return value


def _json_type(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", str: "a string", dict: "an object", list: "a list"}
    return names.get(type(value), "a number")


def _union(value: Any, parts: tuple[Any, ...], path: str) -> Any:
    problems = []
    for part in parts:
        try:
            return converted(value, part, path)
        except InvalidInputs as error:
            problems.append(error)
    # What is meant is seldom null.
    meant = [problem for part, problem in zip(parts, problems, strict=True) if part is not type(None)]
    raise meant[0] if meant else problems[0]


def _model(value: Any, model: Any, path: str) -> Any:
    try:
        return model.model_validate(value)
    except sys.modules["pydantic"].ValidationError as error:
        problems = []
        for problem in error.errors(include_url=False, include_input=False, include_context=False):
            where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
            problems.append(f"{path}{where}: {problem['msg']}")
        raise InvalidInputs("; ".join(problems)) from None  # its own text has the values, which may be secret


def _dataclass(value: Any, kind: Any, path: str) -> Any:
    _expect(isinstance(value, dict), value, path, "an object")
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise InvalidInputs(f"{path}: {kind.__name__} has no field {', '.join(unknown)}")
    for name, field in fields.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in value and not optional:
            raise InvalidInputs(f"{path}.{name} is missing")
    try:
        return kind(**{name: converted(each, hints[name], f"{path}.{name}") for name, each in value.items()})
    except (TypeError, ValueError) as error:  # from __post_init__
        raise InvalidInputs(f"{path}: {error}") from error
