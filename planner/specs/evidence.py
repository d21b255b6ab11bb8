"""What is published of the quality that a format costs: `planner/data/quality`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from planner.specs.base import Name, Sourced, Spec

Points = Annotated[float, Field(ge=-100, le=100)]
Text = Annotated[str, Field(min_length=1, max_length=2000)]
Month = Annotated[str, Field(pattern=r"^(19|20)\d\d-(0[1-9]|1[0-2])$")]


class FormatClass(Spec):
    """Formats that one cell of evidence speaks for."""

    id: Name
    name: Name
    bits: Annotated[int, Field(ge=1, le=16)]
    formats: tuple[Name, ...]
    calibrated: bool = False  # fitted to sample texts


class Family(Spec):
    """A kind of task; differences below `noise_points` are no ranking."""

    id: Name
    name: Name
    aliases: tuple[Name, ...] = ()
    noise_points: Annotated[float, Field(gt=0, le=100)]
    step_up: bool = False


class SizeClass(Spec):
    """Models below this many parameters, and not in an earlier class."""

    id: Name
    below: Annotated[float, Field(gt=0)]


class TrainedFor(Spec):
    """Models whose publisher trained them with a format in place."""

    models: tuple[Name, ...]
    weight_format: Name
    source: Text


class Released(Spec):
    """Which low-bit releases are their models' own reference."""

    made_afterwards: tuple[Name, ...]
    trained_for: tuple[TrainedFor, ...]


class Statement(Spec):
    """What a source says of classes and families without figures of the cell; no `sizes`: of all."""

    classes: tuple[Name, ...]
    families: tuple[Name, ...]
    sizes: tuple[Name, ...] = ()
    points: Points | None = None  # a loss that counts for cells without one
    conflicting: bool = False
    text: Text
    source: Text


class Divergence(Spec):
    """Distance from the 16-bit model: KL divergence and ratio of perplexities, by format."""

    source: Text
    values: dict[Name, tuple[float, float]]


class Said(Spec):
    """A sentence with its source."""

    text: Text
    source: Text


class Prior(Said):
    """What holds across model sizes, and where it does not."""

    exceptions: tuple[Text, ...]


class Order(Spec):
    """Constants of the expected quality that candidates are ordered by."""

    points_per_doubling: Sourced  # of parameters, within a generation
    months_per_doubling: Sourced  # in which half the parameters come to do
    active_exponent: Sourced  # of the active parameters of a mixture of experts
    step_doublings: Sourced  # in which models are told apart
    without_evidence: Text


class QualityTables(Spec):
    """quality.yaml."""

    classes: tuple[FormatClass, ...]
    kv_classes: tuple[FormatClass, ...]
    families: tuple[Family, ...]
    overall: Family
    noise_source: Text
    sizes: tuple[SizeClass, ...]
    released: Released
    statements: tuple[Statement, ...]
    divergence: Divergence
    warnings: dict[Literal["calibration", "edge", "kv_kernel", "step_up"], Said]
    prior: Prior
    order: Order
    published: dict[Month, tuple[Name, ...]]  # patterns of model ids; the longest that matches counts
