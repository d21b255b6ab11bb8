"""One scenario asked for by the columns that matter to a test."""

from __future__ import annotations

from typing import Any

from planner.estimate import estimate
from planner.specs.scenario import Scenario

LLAMA = "meta-llama/Meta-Llama-3.1-8B"
LLAMA_70B = "meta-llama/Meta-Llama-3.1-70B"


def row(**columns: Any) -> dict[str, Any]:
    """The estimate of one scenario, as the CSV has it."""
    given_columns: dict[str, Any] = {"model": LLAMA, "gpu": "h100-sxm"} | columns
    return estimate(Scenario(**given_columns)).rows()[0]
