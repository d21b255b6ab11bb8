"""What a search passes between its steps: small, and the same whether a task runs here or in another process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from planner.estimate.deployments import Deployment
from planner.estimate.layout import Layout
from planner.estimate.library import Library
from planner.specs.gpu import GpuSpec
from planner.specs.scenario import Scenario
from planner.specs.wish import Space, Wish

Columns = dict[str, Any]
# Of a candidate, before the columns of its scenario and its estimate.
ADDED_COLUMNS = (
    *("rank", "replicas", "gpus_per_replica", "power_w", "quality_score"),
    *("pareto", "tie_with", "settings_needed"),
)


class Task(NamedTuple):
    """One model of a search."""

    load: Scenario
    model: str
    space: Space
    wish: Wish
    most: int  # candidates, and refusals with their words, that it hands back
    library: Library  # what the caller brought along, as far as this model needs it


class Place(NamedTuple):
    """A model in formats, in an engine, on a GPU."""

    model: str
    weights: str
    kv: str
    engine: str
    gpu_name: str
    gpu: GpuSpec

    def columns(self) -> Columns:
        """Its columns of a scenario."""
        names = {"model": self.model, "weight_format": self.weights, "kv_format": self.kv}
        return names | {"engine": self.engine, "gpu": self.gpu_name}


class Config(NamedTuple):
    """One replica: a place, divided, with what orders it by money and quality."""

    place: Place
    layout: Layout  # of one replica
    price: float  # USD per GPU hour; nan: not known
    quality: float
    loss_points: float  # nan: no evidence
    settings: tuple[tuple[str, Any], ...] = ()  # columns that are not the usual ones, so that it starts

    def columns(self) -> Columns:
        """Its columns of a scenario."""
        names = ("tp", "pp", "ep", "attention_dp")
        sizes = dict(zip(names, self.layout, strict=False))
        return self.place.columns() | sizes | dict(self.settings)


class Replica(NamedTuple):
    """A configuration with the specs that price it."""

    config: Config
    deployment: Deployment


class Refused(NamedTuple):
    """Combinations that are out, with their first reason; the smaller `distance`, the nearer to a candidate."""

    columns: Columns
    code: str
    reason: str
    distance: float
    combinations: int


class Kept(NamedTuple):
    """A candidate: its columns of a scenario, and the figures that order it, by their names in a row."""

    columns: Columns
    figures: dict[str, float | None]


class Reached(NamedTuple):
    """The best figure that anything reaches where a limit is given, and what reaches it."""

    value: float
    columns: Columns


class Sifted(NamedTuple):
    """What is left of a task."""

    kept: list[Kept]
    refused: list[Refused]
    reasons: Counter[str]  # combinations by code
    best: dict[str, Reached]  # by the name of the limit
    combinations: int
    priced: int


class Ledger:
    """What a task has kept and refused so far."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.kept: list[Kept] = []
        self.refused: list[Refused] = []
        self.reasons: Counter[str] = Counter()
        self.best: dict[str, Reached] = {}
        self.combinations = 0
        self.priced = 0

    def refuse(self, columns: Callable[[], Columns], why: tuple[str, str], count: int, distance: float) -> None:
        """Count `count` combinations out; the first ones are kept with their words."""
        self.reasons[why[0]] += count
        if self.room() > 0:
            self.refused.append(Refused(columns(), *why, distance, count))

    def room(self) -> int:
        """How many more refusals are kept with their words."""
        return self.most - len(self.refused)

    def reach(self, name: str, value: float, less: bool, columns: Callable[[], Columns]) -> None:
        """Remember the best figure under a limit."""
        before = self.best.get(name)
        if before is None or (value < before.value) == less:
            self.best[name] = Reached(value, columns())

    def sifted(self) -> Sifted:
        """The record to hand on."""
        return Sifted(self.kept, self.refused, self.reasons, self.best, self.combinations, self.priced)
