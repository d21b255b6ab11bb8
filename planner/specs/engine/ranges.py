"""Ranges that constants of an engine lie in; anything beyond is a slip of the file."""

from typing import Annotated

from pydantic import Field

Amount = Annotated[float, Field(ge=0, le=1e15)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Ratio = Annotated[float, Field(ge=1)]
Tokens = Annotated[int, Field(ge=1, le=2**26)]
