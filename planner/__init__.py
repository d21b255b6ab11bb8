"""LLM VRAM and throughput capacity planner: which model, at which precision, fits and serves a load, how fast.

    >>> import planner
    >>> answer = planner.estimate(planner.Scenario(model="llama-3.1-8b", gpu="h100-sxm", concurrency=32))
    >>> row = answer.rows()[0]  # the columns of a CSV; answer.to_frame() gives them to pandas
    >>> row["verdict"], row["engine"], row["max_concurrency"] > 32
    ('holds', 'vllm', True)

A scenario's fields are the columns and flags of docs/nomenclature.md, None being "the default"; an estimate's columns
are GiB per GPU, ms and rates per second of the whole deployment. What does not fit is an answer (`verdict`, `reason`),
not an exception. The other doors: `planner.search.recommend`, `planner.simulation.simulation`,
`planner.finetuning.estimate_finetune`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Estimate", "PlannerError", "Scenario", "__version__", "estimate"]

if TYPE_CHECKING:
    from planner.errors import PlannerError as PlannerError
    from planner.estimate import Estimate as Estimate
    from planner.estimate import estimate as estimate
    from planner.specs.scenario import Scenario as Scenario


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used, so that the command line starts fast."""
    if name == "Scenario":
        from planner.specs.scenario import Scenario

        return Scenario
    if name == "PlannerError":
        from planner.errors import PlannerError

        return PlannerError
    if name == "Estimate":
        from planner.estimate import Estimate

        return Estimate
    raise AttributeError(f"module 'planner' has no attribute {name!r}")


class _Package(ModuleType):
    """`planner.estimate` is the function, although the module of that name is imported into the package."""

    @property
    def estimate(self) -> Any:
        """Price scenarios: see `planner.estimate.estimate`."""
        from planner.estimate import estimate

        return estimate

    @estimate.setter
    def estimate(self, module: ModuleType) -> None:
        """Importing the submodule binds its name in the package; the function keeps that name."""


sys.modules[__name__].__class__ = _Package
