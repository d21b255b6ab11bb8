"""What a quality check of the user's own found about one quantized model: evidence that outranks published figures."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field, model_validator

from planner.specs.base import Name, Spec

MOST_POINTS = 100.0
Text = Annotated[str, Field(pattern=r"^[!-~][ -~]{0,199}$")]
Points = Annotated[float, Field(ge=-MOST_POINTS, le=MOST_POINTS)]


class Verdict(StrEnum):
    """What the examples show about the candidate."""

    HOLDS = "holds"
    CRACKS = "cracks"
    CANNOT_TELL = "cannot tell"


class QualityResult(Spec):
    """Candidate against baseline on the user's own examples.

    `difference_points` is candidate minus baseline in percentage points of the pass rate, a drop is negative;
    `low` and `high` are its 95 % interval. It speaks of this model with these formats, and of `task_family` where it
    is named (None: of any). `baseline_weight_format` None: as the publisher released it.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{7,63}$")]
    made: AwareDatetime
    model: Name
    weight_format: Text
    kv_format: Text | None = None
    baseline_weight_format: Text | None = None
    task_family: Text | None = None
    verdict: Verdict
    difference_points: Points
    low: Points
    high: Points
    n: Annotated[int, Field(ge=1, le=10_000)]
    tolerance_points: Annotated[float, Field(gt=0, lt=MOST_POINTS)]

    @model_validator(mode="after")
    def _is_an_interval(self) -> QualityResult:
        if not self.low <= self.difference_points <= self.high:
            raise ValueError("the difference lies outside its interval")
        return self
