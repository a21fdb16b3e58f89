"""Typed inputs: what doesn't fit the model ends the job with an error that names the field."""

from datetime import date
from typing import Literal

from pydantic import BaseModel, Field


class Leg(BaseModel):
    """A part of a journey."""

    to: str
    by: Literal["train", "ship", "foot"] = "train"
    kilometres: float = Field(gt=0)


class Journey(BaseModel):
    """The inputs."""

    start: date
    legs: list[Leg] = Field(min_length=1)


class Plan(BaseModel):
    """The result."""

    route: str
    hours: float
    arrival: date


SPEED = {"train": 80.0, "ship": 30.0, "foot": 5.0}
HOURS_A_DAY = 8


def plan(journey: Journey) -> Plan:
    """Plans a journey, eight hours a day."""
    hours = sum(leg.kilometres / SPEED[leg.by] for leg in journey.legs)
    arrival = date.fromordinal(journey.start.toordinal() + int(hours // HOURS_A_DAY))
    return Plan(route=" - ".join(leg.to for leg in journey.legs), hours=round(hours, 1), arrival=arrival)
