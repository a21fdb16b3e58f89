"""Entry points with pydantic models."""

import os
import signal

from pydantic import BaseModel, Field, field_serializer


class Query(BaseModel):
    topic: str
    limit: int = Field(default=3, ge=1)


def model_inputs(query: Query) -> Query:
    return query


def model_by_name(first: Query, second: Query) -> list[Query]:
    return [first, second]


class Late(BaseModel):
    text: str

    @field_serializer("text")
    def serialize(self, text: str) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return text


def sigterm_while_it_is_written() -> Late:
    return Late(text="done")
