"""What every spec shares: frozen, strict about fields, and honest about where a number comes from."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Spec(BaseModel):
    """A frozen record of data from outside; unknown fields and non-finite numbers are refused."""

    # Built when first used: most runs need few of them.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class Kind(StrEnum):
    """How a number came to be known."""

    DATASHEET = "datasheet"
    MEASURED = "measured"
    FITTED = "fitted"
    DERIVED = "derived"
    ASSUMED = "assumed"


class Sourced(Spec):
    """A number with its source: `value` in the unit that the field's name states."""

    value: float
    source: str
    kind: Kind = Kind.DATASHEET


Count = Annotated[int, Field(ge=1, le=2**26)]
Size = Annotated[int, Field(ge=0, le=2**26)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
