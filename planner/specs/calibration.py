"""What a fit says of one GPU: rates by kernel family, their residual tables and their error on held-back points."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from planner.specs.base import Spec

Positive = Annotated[float, Field(gt=0, le=1e21)]
Fraction = Annotated[float, Field(ge=0, le=100)]
Axis = Annotated[tuple[Annotated[float, Field(ge=-1, le=100)], ...], Field(min_length=1, max_length=64)]


class ResidualTable(Spec):
    """ln(measured / form) at the nodes of a grid in log2 m, log2 n, log2 k; `values` runs over k fastest."""

    m: Axis
    n: Axis
    k: Axis
    values: Annotated[tuple[Annotated[float, Field(ge=-2, le=2)], ...], Field(max_length=64**3)]

    @model_validator(mode="after")
    def _full(self) -> ResidualTable:
        if len(self.values) != len(self.m) * len(self.n) * len(self.k):
            raise ValueError("a residual for every node of the grid")
        return self


class HeldOut(Spec):
    """Relative error of predictions for points whose shapes the fit had not seen."""

    points: Annotated[int, Field(ge=0)]
    median: Fraction
    p90: Fraction


class FamilyFit(Spec):
    """The six parameters of a kernel family (`planner.roofline`), rates in bytes/s and FLOP/s."""

    family: str
    kernel: str
    t0_s: Annotated[float, Field(ge=0, le=1)]
    k_s: Annotated[float, Field(ge=0, le=1)] = 0.0
    bytes_per_s: Positive
    flops_per_s: Positive
    p: Annotated[float, Field(ge=0.2, le=20)]
    k0: Annotated[float, Field(ge=0, le=1e5)] = 0.0
    residual: ResidualTable | None = None
    points: Annotated[int, Field(ge=1)]
    held_out: HeldOut | None = None


class LinkFit(Spec):
    """A collective among `ranks` GPUs: (a^p + (wire bytes / rate)^p)^(1/p)."""

    family: str
    ranks: Annotated[int, Field(ge=2)]
    latency_s: Annotated[float, Field(ge=0, le=10)]
    bytes_per_s: Positive
    p: Annotated[float, Field(ge=0.2, le=20)]
    points: Annotated[int, Field(ge=1)]
    held_out: HeldOut | None = None


class Calibration(Spec):
    """Efficiency curves of one GPU, fitted to one run or to published measurements."""

    id: str  # of the run
    gpu: str
    created: str = ""
    source: str = ""
    bandwidth_bytes_per_s: Positive | None = None  # of the profile that bounded the fit
    families: tuple[FamilyFit, ...] = ()
    links: tuple[LinkFit, ...] = ()

    def family(self, name: str) -> FamilyFit | None:
        """The fit of a kernel family, if it was measured."""
        return next((fit for fit in self.families if fit.family == name), None)
