"""What is known of the quality that a format costs: published figures by format, task family and model size.

Losses are percentage points of a score against the model's own 16-bit or released form, a gain counts as no loss.
An empty cell stays empty: nothing is carried over from another size, another task or another number of bits.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

from pydantic import ValidationError

from planner.catalog.checkpoints import published
from planner.catalog.files import read_bytes, read_yaml
from planner.catalog.paths import data_dir
from planner.errors import BadFile, UnknownName, first_fault
from planner.specs.evidence import Family, FormatClass, QualityTables, Statement
from planner.specs.model import ModelSpec
from planner.specs.quality import QualityResult

OVERALL = "overall"
UNKNOWN_BITS = 4  # that a format of no known class is taken for
MONTHS = 12  # of a year
USUAL_FOUR_BIT = "gguf-q4_k_m"
EDGE_BITS = 3  # from here down losses grow several times as fast
SIXTEEN_BIT = frozenset("fp32 fp16 bf16 gguf-f32 gguf-f16 gguf-bf16".split())
MAX_BYTES = 2**20
# Badges, the surest first. `reference`: nothing is lost by definition, as it is what the others are held against.
OWN, REFERENCE, NATIVE, TRAINED, GOOD, FAIR, THIN, CONFLICTING, NONE = (
    "own test", "reference", "native", "trained for", "good", "fair", "thin", "conflicting", "none",
)  # fmt: skip


class Cell(NamedTuple):
    """A line of losses.csv: scores of models of one size, before and after."""

    n: int  # scores
    models: int
    median_points: float  # lost; negative is a gain
    worst_points: float
    relative_rows: int  # losses given as a part of the score, counted as points
    worst_case: str  # model and test
    badge: str
    sources: tuple[str, ...]


class Evidence(NamedTuple):
    """What a format costs a model in a task family; `loss_points` is None where nobody measured it."""

    badge: str
    loss_points: float | None
    worst_points: float | None = None
    group: FormatClass | None = None
    size: str = ""
    cell: Cell | None = None
    statements: tuple[Statement, ...] = ()
    own: QualityResult | None = None
    source: str = ""


@lru_cache(maxsize=1)
def tables() -> QualityTables:
    """quality.yaml. Raises BadFile when it does not hold what it should."""
    path = data_dir() / "quality" / "quality.yaml"
    try:
        return QualityTables.model_validate(read_yaml(path))
    except ValidationError as error:
        raise BadFile(f"{path.name}: {first_fault(error)}") from None


@lru_cache(maxsize=1)
def cells() -> dict[tuple[str, str, str], Cell]:
    """losses.csv by class, family and size."""
    text = read_bytes(data_dir() / "quality" / "losses.csv", MAX_BYTES).decode()
    return {(row["class"], row["family"], row["size"]): _cell(row) for row in csv.DictReader(io.StringIO(text))}


def _cell(row: dict[str, str]) -> Cell:
    return Cell(
        int(row["n"]),
        int(row["models"]),
        float(row["median_points"]),
        float(row["worst_points"]),
        int(row["relative_rows"]),
        row["worst_case"],
        row["badge"],
        tuple(row["sources"].split(" | ")),
    )


def family(name: str | None) -> Family:
    """A task family by id or alias; blank is all tasks together. Raises UnknownName with what is known."""
    if not name:
        return tables().overall
    wanted = name.strip().lower().replace(" ", "_").replace("-", "_")
    known = {word: one for one in (*tables().families, tables().overall) for word in (one.id, *one.aliases)}
    if wanted not in known:
        ids = ", ".join(one.id for one in tables().families)
        raise UnknownName("task family", name, known, f"known: {ids}")
    return known[wanted]


def size_class(parameters: float) -> str:
    """Size class of a model by its total parameters."""
    return next(one.id for one in tables().sizes if parameters < one.below)


def format_class(weight_format: str) -> FormatClass | None:
    """The class whose evidence speaks for a weight format."""
    return next((one for one in tables().classes if weight_format in one.formats), None)


def weight_evidence(model: ModelSpec, parameters: float, weight_format: str, task: Family) -> Evidence:
    """What the weight format costs this model in a task family."""
    own = model.quantization.weight_format if model.quantization else None
    trained = next(
        (one for one in tables().released.trained_for if model.id in one.models and one.weight_format == weight_format),
        None,
    )
    if trained:
        return Evidence(TRAINED, 0.0, 0.0, source=trained.source)
    afterwards = model.id in tables().released.made_afterwards or _made_by_others(model.id, own or "")
    if own and not afterwards and weight_format in (own, *SIXTEEN_BIT):
        return Evidence(NATIVE, 0.0, 0.0, source=f"{model.id}: released in {own}")
    if weight_format in SIXTEEN_BIT:
        return Evidence(REFERENCE, 0.0, 0.0)
    return _published(format_class(weight_format), size_class(parameters), task)


def _made_by_others(model_id: str, weight_format: str) -> bool:
    """Whether the checkpoint that is known in this format is not the publisher's, but quantized after the release."""
    name = published(model_id, weight_format)
    return name is not None and name.partition("/")[0] != model_id.partition("/")[0]


def kv_evidence(parameters: float, kv_format: str, task: Family) -> Evidence:
    """What the KV format costs; of a pair of different ones nothing is known."""
    parts = {part for part in kv_format.split("/") if part not in SIXTEEN_BIT}
    if not parts:
        return Evidence(REFERENCE, 0.0, 0.0)
    group = next((one for one in tables().kv_classes if parts & {*one.formats}), None)
    whole = len(parts) == 1 and len({*kv_format.split("/")}) == 1
    return _published(group if whole else None, size_class(parameters), task)


def own_evidence(test: QualityResult) -> Evidence:
    """Evidence from a user's own check, which comes before all published evidence."""
    return Evidence(OWN, max(-test.difference_points, 0.0), max(-test.low, 0.0), own=test, source="your own test")


def _published(group: FormatClass | None, size: str, task: Family) -> Evidence:
    if group is None:
        return Evidence(NONE, None, size=size)
    said = tuple(
        one
        for one in tables().statements
        if group.id in one.classes and task.id in one.families and (not one.sizes or size in one.sizes)
    )
    cell = cells().get((group.id, task.id, size))
    if cell:
        worst = max(cell.worst_points, 0.0)
        return Evidence(cell.badge, max(cell.median_points, 0.0), worst, group, size, cell, said)
    stated = next((one for one in said if one.points is not None), None)
    if stated:
        return Evidence(THIN, stated.points, None, group, size, statements=said, source=stated.source)
    conflicting = any(one.conflicting for one in said)
    return Evidence(CONFLICTING if conflicting else NONE, None, None, group, size, statements=said)


def worst_known_points(group: FormatClass | None, size: str, family_id: str = OVERALL) -> float:
    """The worst median loss of as few bits: where a format without evidence stands.

    In all tasks together, and in this one: of this size where more than a thin figure speaks for one, else of this
    size at all; in all tasks else of any size. Nothing is known of a format that belongs to no class: it stands
    behind the worst of 4 bit.
    """
    bits = group.bits if group else UNKNOWN_BITS
    kinds = tables().kv_classes if group in tables().kv_classes else tables().classes
    alike = [one.id for one in kinds if one.bits == bits] or [one.id for one in kinds if one.bits == UNKNOWN_BITS]
    known = [(key, cell) for key, cell in cells().items() if key[0] in alike]
    overall = [cell for key, cell in known if key[1] == OVERALL]
    return max(
        _worst([cell for key, cell in known if key[1:] == (family_id, size)]),
        _worst([cell for key, cell in known if key[1:] == (OVERALL, size)] or overall),
    )


def _worst(found: Sequence[Cell]) -> float:
    """The worst median of cells, thin ones left out where others are."""
    trusted = [cell for cell in found if cell.badge in (GOOD, FAIR)]
    return max((cell.median_points for cell in trusted or found), default=0.0)


def distant_points(weight_format: str, group: FormatClass | None, size: str, family_id: str) -> float | None:
    """Where a format stands by its distance from 16 bit on the one model that all were measured on: the worst of
    4 bit times its KL divergence over that of the usual 4-bit file. None without a distance, and at the 3-bit edge.
    """
    known = tables().divergence.values
    if group is None or group.bits <= EDGE_BITS or weight_format not in known:
        return None
    four = next(one for one in tables().classes if USUAL_FOUR_BIT in one.formats)
    return worst_known_points(four, size, family_id) * known[weight_format][0] / known[USUAL_FOUR_BIT][0]


class BaseScores(NamedTuple):
    """Scores of two models before quantizing, in one test of one source."""

    test: str
    scores: tuple[float, float]
    source: str


def base_scores(one: str, other: str, family_id: str) -> BaseScores | None:
    """A test that one source ran on both models, of this family if it is named, else of any."""
    for key, scores in _base_scores().items():
        if family_id in (OVERALL, key[0]) and one in scores and other in scores:
            return BaseScores(key[1], (scores[one], scores[other]), key[2])
    return None


@lru_cache(maxsize=1)
def _base_scores() -> dict[tuple[str, str, str], dict[str, float]]:
    text = read_bytes(data_dir() / "quality" / "base_scores.csv", MAX_BYTES).decode()
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in csv.DictReader(io.StringIO(text)):
        found.setdefault((row["family"], row["test"], row["source"]), {})[row["model"]] = float(row["score"])
    return found


@lru_cache(maxsize=1024)
def published_months(model_id: str) -> int:
    """Month of publication, counted from the year 0; of a model that nobody dated the latest."""
    found = [
        (len(pattern), month)
        for month, patterns in tables().published.items()
        for pattern in patterns
        if fnmatchcase(model_id, pattern)
    ]
    return _months(max(found)[1] if found else max(tables().published))


def _months(published: str) -> int:
    year, _, month = published.partition("-")
    return MONTHS * int(year) + int(month) - 1


def year(model_id: str) -> int:
    """Year of publication."""
    return published_months(model_id) // MONTHS


def expected_points(model: ModelSpec, total: float, active: float) -> float:
    """What orders models of all sizes and ages where no test compares them: points of an unnamed score.

    points_per_doubling * log2(total^(1 - a) * active^a), less what the months since have gained, in steps of half
    a doubling: models that are closer are equal. Unbounded, and good for an order alone.
    """
    order = tables().order
    share = order.active_exponent.value
    doublings = (1 - share) * math.log2(total) + share * math.log2(active)
    months = _months(max(tables().published)) - published_months(model.id)
    exact = doublings - months / order.months_per_doubling.value
    return order.points_per_doubling.value * round(exact / order.step_doublings.value) * order.step_doublings.value
