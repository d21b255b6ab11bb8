"""How long a step of every row takes: its operations on the accelerator, then the engine's own time.

clock(engine, deployments, inputs).step_s(batch)   # seconds, (R,) or (P, R) for P batches at once
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from planner.arrays import PerRow
from planner.catalog.rates import RateSet
from planner.estimate.deployments import Deployment, Floats, Part, column
from planner.estimate.engine_time import EngineTime, engine_time
from planner.estimate.factors import Refined
from planner.estimate.rates import corrections, draft_rate_sets, peaks, rate_sets, rates
from planner.estimate.step_work import StepWork, step_work
from planner.memory import MemoryInputs
from planner.ops import Batch, Op
from planner.roofline import Rates, Residuals, step_seconds
from planner.specs.engine import EngineSpec

TINY = 1e-9  # tokens


class Clock(NamedTuple):
    """What prices a step of every row."""

    work: StepWork
    rates: Rates  # of kernels, as they are attained
    residuals: Residuals | None  # corrections from calibrations
    rate_sets: Sequence[RateSet]  # what the rates of every row rest on
    peaks: Rates  # the hardware's limits, in the places of the rates
    engine_time: EngineTime
    refined: Refined  # factors from observations, arrays (R,)

    @property
    def engine(self) -> EngineSpec:
        """The engine that all rows share."""
        return self.engine_time.engine

    @property
    def is_refined(self) -> bool:
        """Whether observations change any row."""
        return bool(np.any(self.refined.observations))

    def ops(self, batch: Batch) -> list[Op]:
        """Everything that a step runs."""
        return self.work.ops(batch, self.engine_time.launched_share)

    def engine_s(self, batch: Batch, ops: Sequence[Op], accelerator_s: Floats) -> PerRow:
        """Seconds that the engine adds to a step whose `ops` take `accelerator_s`."""
        return self.engine_time.seconds(batch, ops, accelerator_s, self.rates.t0_s)

    def floor_s(self, batch: Batch) -> Floats:
        """Seconds below which no engine runs the step: bytes at full bandwidth, products at the highest rate."""
        return step_seconds(self.ops(batch), self.peaks)

    def factor(self, batch: Batch) -> PerRow:
        """What observations put on the time of a step: the prompts' and the decodes' factor, weighed by tokens."""
        prompts = batch.prefill_tokens / np.maximum(batch.prefill_tokens + batch.decode_seqs, TINY)
        return self.refined.prefill**prompts * self.refined.decode ** (1 - prompts)

    def step_s(self, batch: Batch) -> Floats:
        """Seconds of the whole step, (R,); observations do not lower it below the hardware's limit."""
        ops = self.ops(batch)
        accelerator_s = step_seconds(ops, self.rates, self.residuals)
        step_s = np.asarray(accelerator_s + self.engine_s(batch, ops, accelerator_s))
        if not self.is_refined:
            return step_s
        return np.asarray(np.maximum(step_s * self.factor(batch), np.minimum(self.floor_s(batch), step_s)))


def clock(engine: EngineSpec, deployments: Sequence[Deployment], inputs: MemoryInputs) -> Clock:
    """The step clock of rows that share a model, an engine and a drafter."""
    model_rates, draft_rates = rate_sets(deployments), draft_rate_sets(deployments)
    attained = rates(deployments, model_rates, draft_rates)
    return Clock(
        work=step_work(engine, deployments, inputs),
        rates=attained,
        residuals=corrections(model_rates, draft_rates),
        rate_sets=model_rates,
        peaks=peaks(deployments, attained),
        engine_time=engine_time(engine, deployments, inputs, model_rates),
        refined=_refined_columns(deployments),
    )


def _refined_columns(deployments: Sequence[Deployment]) -> Refined:
    """What observations say of every row, as arrays."""
    return Refined(*(column(deployments, attrgetter(f"row.refined.{name}"), Part.REFINED) for name in Refined._fields))
