"""The time between two tokens of a deployment, operation by operation: what a chart of it shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from planner.estimate.answer import StepParts, mean_batch, step_parts
from planner.estimate.deployments import only
from planner.estimate.library import NO_LIBRARY, Library
from planner.estimate.pricing import PricedGroup
from planner.estimate.resolve import ResolvedRow
from planner.estimate.single import priced_scenario
from planner.ops import Batch, OpKind
from planner.specs.formats import Level
from planner.specs.gpu import MathType
from planner.specs.scenario import Scenario

LEAST_S = 1e-9  # of rounding


class StepPart(NamedTuple):
    """One operation of a step, all its executions together, the engine's own time, or what others' prompts add."""

    name: str
    kind: str  # gemm | moe | attention | recurrent | elementwise | communication | engine | prompts
    seconds: float
    bound: str  # memory | compute | network | overhead: the largest of what each alone would take; prompts
    bytes: float  # moved by one GPU
    flops: float  # done by one GPU
    executions: float


def breakdown(scenario: Scenario, library: Library = NO_LIBRARY) -> list[StepPart]:
    """Parts of the time between two tokens, longest first: operations of the same name are one part.

    They are those of a step that only decodes, the engine's own time, and the mean of what other requests' prompts add.
    They sum to the time per output token; with drafts, to that time over the tokens that a step yields. Where nothing
    is generated they are those of the step of the prompts. Raises PlannerError as `resolve` does.
    """
    group = priced_scenario(scenario, library)
    mean, between_s = mean_batch(group), only(group.point.tpot_s * group.offered.load.tokens_per_step)
    step = step_parts(group, Batch(mean.decode_seqs, mean.decode_context) if between_s > 0 else mean)
    by_name: dict[tuple[str, str], list[StepPart]] = defaultdict(list)
    for part in _op_parts(step):
        by_name[part.name, part.kind].append(part)
    parts = [_together(alike) for alike in by_name.values()]
    engine_s = only(step.engine_s)
    if engine_s > 0:
        parts.append(StepPart("engine", "engine", engine_s, "overhead", 0.0, 0.0, 1.0))
    prompts_s = between_s - sum(part.seconds for part in parts)
    if prompts_s > LEAST_S:
        parts.append(StepPart("prompts", "prompts", prompts_s, "prompts", 0.0, 0.0, 1.0))
    return sorted(parts, key=lambda part: -part.seconds)


def _op_parts(step: StepParts) -> Iterator[StepPart]:
    """The operations that take time, one by one."""
    for index, op in enumerate(step.ops):
        seconds, count = only(step.seconds.total[index]), only(op.count)
        if seconds > 0:
            moved_bytes, flops = count * only(op.bytes), count * only(op.flops)
            yield StepPart(op.name, op.kind.value, seconds, _bound(step, index), moved_bytes, flops, count)


def _bound(step: StepParts, index: int) -> str:
    """What limits an operation: whichever of start-up, bytes and FLOPs would take longest alone."""
    if step.ops[index].kind is OpKind.COMMUNICATION:
        return "network"
    alone = {"overhead": step.seconds.start, "memory": step.seconds.memory, "compute": step.seconds.compute}
    return max(alone, key=lambda name: only(alone[name][index]))


def _together(alike: Sequence[StepPart]) -> StepPart:
    """Operations of one name as one part, limited by what limits the longest of them."""
    return max(alike, key=lambda part: part.seconds)._replace(
        seconds=sum(part.seconds for part in alike),
        bytes=sum(part.bytes for part in alike),
        flops=sum(part.flops for part in alike),
        executions=sum(part.executions for part in alike),
    )


class Phase(NamedTuple):
    """A step of one phase on one GPU: what it moves and computes, and how long the kernels take."""

    name: str  # prefill | decode
    bytes: float
    flops: float
    seconds: float


class Peaks(NamedTuple):
    """What one GPU moves and computes at most by its datasheet, in the arithmetic of the weights."""

    bytes_per_s: float
    flops_per_s: float
    math: str


def phases(scenario: Scenario, library: Library = NO_LIBRARY) -> tuple[Peaks, list[Phase]]:
    """A prompt's step and a step that only decodes at this load, against the GPU's limits.

    Messages between GPUs and the engine's own time are left out. Raises PlannerError as `resolve` does.
    """
    group = priced_scenario(scenario, library)
    row, mean = group.deployments[0].row, mean_batch(group)
    math = _math(row)
    peaks = Peaks(row.gpu.bandwidth_bytes_per_s, row.gpu.flops_per_s[math], math.value)
    phases = []
    if only(group.offered.load.input_tokens) > 0:
        tokens = np.minimum(group.offered.request.prefill_tokens, group.offered.capacity.max_num_batched_tokens)
        phases.append(_phase("prefill", group, Batch(prefill_tokens=tokens, prefill_seqs=np.ones_like(tokens))))
    if only(group.offered.load.output_tokens) > 0:
        phases.append(_phase("decode", group, Batch(mean.decode_seqs, mean.decode_context)))
    return peaks, phases


def _math(row: ResolvedRow) -> MathType:
    """The operand type of the weights' products: their own where the GPU has units for it, else 16 or 32 bit."""
    own, rates = row.weights.weight_math, row.gpu.flops_per_s
    if own in rates and row.support.level is Level.NATIVE:
        return own
    return next(math for math in (MathType.BF16, MathType.FP16, MathType.FP32) if math in rates)


def _phase(name: str, group: PricedGroup, batch: Batch) -> Phase:
    step = step_parts(group, batch)
    local = [i for i, op in enumerate(step.ops) if op.kind is not OpKind.COMMUNICATION]
    moved_bytes = sum(only(step.ops[i].count) * only(step.ops[i].bytes) for i in local)
    flops = sum(only(step.ops[i].count) * only(step.ops[i].flops) for i in local)
    return Phase(name, moved_bytes, flops, sum(only(step.seconds.total[i]) for i in local))
