"""The door to `planner.training`, the memory of a training step: `estimate_finetune(scenarios)`.

A run that does not fit is an answer; one that names something unknown or contradicts itself gets an `error`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from planner.catalog.finetune import constants
from planner.errors import PlannerError
from planner.estimate.library import NO_LIBRARY, Library
from planner.finetuning.answer import FinetuneAnswer, FinetuneEstimate, answer_columns, documented
from planner.finetuning.resolve import ResolvedFinetune, resolve
from planner.params import parameters
from planner.specs.finetune import FinetuneScenario
from planner.training import PHASES, Array, Batch, Division, Plan, finetune_plan, trained_count
from planner.units import GIB

__all__ = ["FinetuneAnswer", "FinetuneEstimate", "answer_columns", "documented", "estimate_finetune"]

LONGEST_TOKENS = 2**24
MOST_SEQUENCES = 2**16
POINTS = 258  # of a grid that is priced at once


def estimate_finetune(
    scenarios: FinetuneScenario | Sequence[FinetuneScenario], library: Library = NO_LIBRARY
) -> FinetuneEstimate:
    """Memory of one fine-tuning run or of many, GiB on one GPU; errors are per run and stop no other.

    `library`: models and GPUs that the caller brings along, by the names that runs use.

    Rank 16 on all seven matrices of each of Llama-3.1-8B's 32 layers trains 41.9 M values, full fine-tuning all 8.03 B.

    >>> run = FinetuneScenario(model="llama-3.1-8b", gpu="rtx4090", method="qlora", seq_len=2048)
    >>> runs = [run, run.model_copy(update={"method": "full"})]
    >>> [(row["fits"], row["trained_parameters"]) for row in estimate_finetune(runs).rows()]
    [(True, 41943040), (False, 8030261248)]
    """
    asked = [scenarios] if isinstance(scenarios, FinetuneScenario) else list(scenarios)
    return FinetuneEstimate(tuple(_answer(scenario, library) for scenario in asked))


def _answer(scenario: FinetuneScenario, library: Library) -> FinetuneAnswer:
    try:
        return _answered(resolve(scenario, library))
    except PlannerError as error:
        return FinetuneAnswer(scenario, error=str(error))


def plan_of(row: ResolvedFinetune, batch_size: Array | None = None, seq_len: Array | None = None) -> Plan:
    """The run's memory in bytes, at its own micro-batch or at others (arrays)."""
    run = row.scenario
    division = Division(
        run.sharding or "none", run.n_gpus or 1, bool(run.offload_optimizer), bool(run.optimizer_in_backward)
    )
    room = np.inf if run.device_gib is None else (run.device_gib - (run.reserved_gib or 0)) * GIB
    batch = Batch(
        sequences=(run.batch_size or 1) if batch_size is None else batch_size,
        seq_len=(run.seq_len or 1) if seq_len is None else seq_len,
        accumulation=run.grad_accum or 1,
        device_bytes=room,
    )
    return finetune_plan(row.model, row.recipe, division, batch, constants().shared)


def _answered(row: ResolvedFinetune) -> FinetuneAnswer:
    run = row.scenario
    plan = plan_of(row)
    peak, phase = float(plan.device) / GIB, PHASES[int(plan.phase)]
    half = row.recipe.framework.interval.value
    answer = FinetuneAnswer(
        run,
        reason=f"needs {peak:.1f} GiB on each GPU at the peak ({phase})",
        peak_gib=peak,
        peak_gib_low=peak * (1 - half),
        peak_gib_high=peak * (1 + half),
        peak_phase=phase,
        parameters=parameters(row.model),
        trained_parameters=trained_count(row.model, row.recipe),
    )
    terms = {name: float(value) / GIB for name, value in _terms(plan).items()}
    return replace(answer, **terms, **_fit(row, answer))  # type: ignore[arg-type]


def _fit(row: ResolvedFinetune, answer: FinetuneAnswer) -> dict[str, object]:
    """Whether the peak stays within the card, and what else would."""
    run, peak = row.scenario, answer.peak_gib or 0.0
    if run.device_gib is None:
        return {}
    available = run.device_gib - (run.reserved_gib or 0)
    tight = (answer.peak_gib_low or 0) <= available < (answer.peak_gib_high or 0)
    return {
        "fits": peak <= available,
        "fit_confidence": "tight" if tight else "yes" if peak <= available else "no",
        "reason": _sentence(peak, available, answer.peak_phase or ""),
        "available_gib": available,
        "max_batch_size": _largest(lambda size: plan_of(row, batch_size=size), available * GIB, MOST_SEQUENCES),
        "max_seq_len": _largest(lambda length: plan_of(row, seq_len=length), available * GIB, LONGEST_TOKENS),
    }


def _terms(plan: Plan) -> dict[str, Array]:
    """Columns in GiB from the plan's bytes."""
    states, found = plan.states, plan.moments
    return {
        "peak_allocated_gib": plan.allocated,
        "peak_reserved_gib": plan.reserved,
        "loaded_gib": plan.loaded,
        "weights_gib": states.weights,
        "adapters_gib": states.adapters,
        "gradients_gib": states.gradients,
        "optimizer_gib": states.optimizer,
        "buffers_gib": states.buffers,
        "activations_gib": found.kept,
        "layer_gib": found.layer,
        "loss_gib": found.loss,
        "step_gib": states.step,
        "allocator_gib": plan.reserved - plan.allocated,
        "context_gib": plan.device - plan.reserved,
        "model_states_gib": states.model_states,
    }


def _sentence(peak: float, available: float, phase: str) -> str:
    if peak <= available:
        return f"fits: {peak:.1f} of {available:.1f} GiB at the peak ({phase})"
    return f"does not fit: {peak:.1f} GiB at the peak ({phase}) in {available:.1f} GiB, {peak - available:.1f} short"


def _largest(plan_at: Callable[[Array], Plan], available_bytes: float, most: int) -> int:
    """Largest number whose peak fits: the peak grows with it, so a grid closes in on it. 0: not even one."""
    low, high = 0, most + 1
    while high - low > 1:
        points = np.unique(np.linspace(low, high, POINTS).astype(int))[1:-1]
        fitting = int(np.sum(plan_at(points.astype(float)).device <= available_bytes))
        bounds = [low, *points.tolist(), high]
        low, high = bounds[fitting], bounds[fitting + 1]
    return low
