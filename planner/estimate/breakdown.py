"""The time between two tokens of a deployment, operation by operation: what a chart of it shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from planner.estimate.answer import PricedGroup, mean_batch, step_parts
from planner.estimate.deployments import only
from planner.estimate.group import settled_layouts
from planner.estimate.layout import layouts
from planner.estimate.library import NO_LIBRARY, Library
from planner.estimate.refine import refined
from planner.estimate.resolve import resolve
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
    """Operations of a step that only decodes and what prompts of others add to it in the mean, longest first.

    They sum to the time per output token, of a step with drafts times the tokens that it brings. Of a load without
    answers: operations of the step of its prompts. Operations of the same name are one part. Raises PlannerError as
    `resolve` does.
    """
    row = refined(resolve(scenario, library), library)
    priced, _ = settled_layouts(row.engine, [(row, layouts(row))])
    mean, between_s = mean_batch(priced), only(priced.point.tpot_s * priced.offered.load.tokens_per_step)
    parts = step_parts(priced, Batch(mean.decode_seqs, mean.decode_context) if between_s > 0 else mean)
    found: dict[tuple[str, str], list[Any]] = {}
    for index, op in enumerate(parts.ops):
        count = only(op.count)
        times = {
            "overhead": only(parts.seconds.start[index]),
            "memory": only(parts.seconds.memory[index]),
            "compute": only(parts.seconds.compute[index]),
        }
        total = only(parts.seconds.total[index])
        amounts = np.array([total, count * only(op.bytes), count * only(op.flops), count])
        if total > 0:
            bound = "network" if op.kind is OpKind.COMMUNICATION else _largest(times)
            known = found.setdefault((op.name, op.kind.value), [bound, np.zeros(4), 0.0])
            if total > known[2]:
                known[0], known[2] = bound, total
            known[1] += amounts
    out = [StepPart(name, kind, float(v[1][0]), v[0], *v[1][1:].tolist()) for (name, kind), v in found.items()]
    engine_s = only(parts.engine_s)
    out += [StepPart("engine", "engine", engine_s, "overhead", 0.0, 0.0, 1.0)] if engine_s > 0 else []
    prompts_s = between_s - sum(part.seconds for part in out)
    out += [StepPart("prompts", "prompts", prompts_s, "prompts", 0.0, 0.0, 1.0)] if prompts_s > LEAST_S else []
    return sorted(out, key=lambda part: -part.seconds)


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
    row = refined(resolve(scenario, library), library)
    priced, _ = settled_layouts(row.engine, [(row, layouts(row))])
    mean, native = mean_batch(priced), row.support.level is Level.NATIVE
    math = row.weights.weight_math if native and row.weights.weight_math in row.gpu.flops_per_s else None
    math = math or next(one for one in (MathType.BF16, MathType.FP16, MathType.FP32) if one in row.gpu.flops_per_s)
    limits = Peaks(row.gpu.bandwidth_bytes_per_s, row.gpu.flops_per_s[math], math.value)
    found = []
    if only(priced.offered.load.input_tokens) > 0:
        tokens = np.minimum(priced.offered.request.prefill_tokens, priced.offered.capacity.max_num_batched_tokens)
        found.append(_phase("prefill", priced, Batch(prefill_tokens=tokens, prefill_seqs=np.ones_like(tokens))))
    if only(priced.offered.load.output_tokens) > 0:
        found.append(_phase("decode", priced, Batch(mean.decode_seqs, mean.decode_context)))
    return limits, found


def _phase(name: str, priced: PricedGroup, batch: Batch) -> Phase:
    parts = step_parts(priced, batch)
    own = [index for index, op in enumerate(parts.ops) if op.kind is not OpKind.COMMUNICATION]
    moved = sum(only(parts.ops[i].count) * only(parts.ops[i].bytes) for i in own)
    done = sum(only(parts.ops[i].count) * only(parts.ops[i].flops) for i in own)
    return Phase(name, moved, done, sum(only(parts.seconds.total[i]) for i in own))


def _largest(times: Mapping[str, float]) -> str:
    return max(times, key=lambda name: times[name])
