"""Quality in words: what a format costs a task, how sure that is, and what to watch."""

from __future__ import annotations

from typing import NamedTuple

from planner.catalog.quality import (
    CONFLICTING,
    EDGE_BITS,
    FAIR,
    GOOD,
    NATIVE,
    NONE,
    OWN,
    REFERENCE,
    THIN,
    TRAINED,
    Evidence,
    base_scores,
    family,
    tables,
)
from planner.estimate.columns import EstimateRow
from planner.estimate.quality import WeightsAndCache
from planner.explain.words import format_name
from planner.specs.evidence import Family

BADGE_WORDS = {
    OWN: "your own test",
    REFERENCE: "16 bit, nothing lost",
    NATIVE: "released like this, nothing lost",
    TRAINED: "trained for this format, nothing lost",
    GOOD: "good evidence",
    FAIR: "fair evidence",
    THIN: "thin evidence",
    CONFLICTING: "sources disagree",
    NONE: "no evidence",
}
TEST_IT = "no evidence: test it on your task"


class Said(NamedTuple):
    """A line about quality and whether it warns."""

    text: str
    source: str
    warns: bool = False


def badge(name: str | None) -> str:
    """A badge in words."""
    return BADGE_WORDS.get(name or NONE, str(name))


def in_short(row: EstimateRow) -> str:
    """The loss of a row's weights in a few words: "loses 2.7 points, good evidence"."""
    return _short(row["quality_evidence"] or NONE, row["quality_loss_points"], family(row["task_family"]))


def distance_in_short(row: EstimateRow) -> str:
    """Where no score tells what a row's weights lose: how far the format stands from 16 bit; blank elsewhere."""
    kind = row["weight_format"]
    if (row["quality_evidence"] or NONE) != NONE or kind not in tables().divergence.values:
        return ""
    return f"perplexity of Llama 3 8B {tables().divergence.values[kind][1] - 1:+.1%}"


def kv_in_short(row: EstimateRow) -> str:
    """The loss of a row's KV format in a few words."""
    return _short(row["kv_quality_evidence"] or NONE, row["kv_quality_loss_points"], family(row["task_family"]))


def _short(name: str, loss: float | None, task: Family) -> str:
    if loss is None or name in (REFERENCE, NATIVE, TRAINED):
        return badge(name)
    size = f"loses {loss:.1f} points" if loss >= task.noise_points else f"within noise ({loss:.1f} points)"
    return f"{size}, {badge(name)}"


def quality_lines(evidence: WeightsAndCache, weight_format: str, kv_format: str, task_family: str | None) -> list[Said]:
    """Everything that is known of a deployment's quality, weights and cache apart, warnings last."""
    task = family(task_family)
    said = [*_evidence("Weights", evidence.weights, task), *_divergence(weight_format)]
    if evidence.kv.badge != REFERENCE and not evidence.weights.own:
        said += _evidence(f"KV cache in {kv_format}", evidence.kv, task)
    return said + _warnings(evidence, weight_format, task)


def _evidence(what: str, evidence: Evidence, task: Family) -> list[Said]:
    if evidence.own:
        test = evidence.own
        text = (
            f"{what}, by your own test of {test.n:,} examples: {test.difference_points:+.1f} points "
            f"({test.low:+.1f} to {test.high:+.1f}), {test.verdict.value}"
        )
        return [Said(text, f"quality check {test.id}")]
    if evidence.badge in (REFERENCE, NATIVE, TRAINED):
        return [Said(f"{what}: {badge(evidence.badge)}", evidence.source)]
    lines = [Said(f"{one.text}", one.source) for one in evidence.statements]
    name = evidence.group.name if evidence.group else "this format"
    if evidence.cell is None:
        first = f"{what}: {name}, {task.name}, models of {_size(evidence.size)}: "
        first += f"{evidence.loss_points:g} points" if evidence.loss_points is not None else TEST_IT
        return [Said(first, evidence.source), *lines]
    cell = evidence.cell
    size = f"{cell.median_points:.2g} points lost" if cell.median_points > 0 else "no loss"
    noise = f", within the noise of {task.noise_points:g}" if cell.median_points < task.noise_points else ""
    models = f"{cell.models} model{'s' if cell.models > 1 else ''}"
    counted = (
        f"median of {cell.n} scores of {models}; worst {max(cell.worst_points, 0.0):.1f}:"
        if cell.n > 1
        else "one score:"
    )
    parts = f"; {cell.relative_rows} given as a part of the score" if cell.relative_rows else ""
    first = (
        f"{what}: {name}, {task.name}, models of {_size(evidence.size)}: {size}{noise} "
        f"({counted} {cell.worst_case}{parts}); {badge(cell.badge)}"
    )
    return [Said(first, "; ".join(cell.sources)), *lines]


def _divergence(weight_format: str) -> list[Said]:
    """How far one model in this format stands from itself in 16 bit: an order of formats, no loss in points."""
    table = tables().divergence
    if weight_format not in table.values:
        return []
    divergence, ratio = table.values[weight_format]
    text = (
        f"Llama 3 8B in it: perplexity {ratio - 1:+.1%}, KL divergence {divergence:.2g}: a distance, no loss in points"
    )
    return [Said(text, table.source)]


def _size(name: str) -> str:
    return name.replace("<=", "at most ").replace(">=", "at least ") or "any size"


def _warnings(evidence: WeightsAndCache, weight_format: str, task: Family) -> list[Said]:
    table, group, out = tables().warnings, evidence.weights.group, []
    if group and group.bits <= EDGE_BITS:
        out.append("edge")
    if group and group.calibrated and not evidence.weights.own:
        out.append("calibration")
    if group and task.step_up and group.bits < 8 and evidence.weights.badge in (NONE, THIN, CONFLICTING):
        out.append("step_up")
    if evidence.kv.group and task.id == "long_context":
        out.append("kv_kernel")
    name = group.name if group else format_name(weight_format)
    said = [Said(f"{name}: {table[key].text}", table[key].source, True) for key in out]  # type: ignore[index]
    if evidence.weights.group is None and evidence.weights.badge == NONE:
        said.append(Said(f"nobody measured {format_name(weight_format)} in a way that can be counted", "", True))
    return said


def across_sizes(first: EstimateRow, second: EstimateRow) -> Said | None:
    """Why the larger of two models comes before the smaller or not: by scores of one test, else by the prior."""
    if first["model"] == second["model"]:
        return None
    task = family(first["task_family"])
    found = base_scores(first["model"], second["model"], task.id)
    if found:
        names = (str(row["model"]).rpartition("/")[2] for row in (first, second))
        texts = (f"{name} {score:g}" for name, score in zip(names, found.scores, strict=True))
        return Said(f"Before quantizing, {found.test}: {' against '.join(texts)}", found.source)
    prior = tables().prior
    return Said(f"{prior.text}. Exceptions: {'; '.join(prior.exceptions)}", prior.source)
