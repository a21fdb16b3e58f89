"""Entry points with pydantic models."""

from pydantic import BaseModel, Field


class Query(BaseModel):
    topic: str
    limit: int = Field(default=3, ge=1)


def model_inputs(query: Query) -> Query:
    return query


def model_by_name(first: Query, second: Query) -> list[Query]:
    return [first, second]
