"""The time that an engine adds to the work of its accelerators: scheduling, sampling, launching, choosing experts.

Some of it passes while the accelerator waits and adds to every step. The rest passes while the accelerator works and
adds only what it takes longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from planner.arrays import PerRow
from planner.catalog.rates import RateSet
from planner.collectives import Parallel, p_norm
from planner.estimate.capacity import captured, captured_each
from planner.estimate.deployments import Deployment, Floats, Part, column
from planner.estimate.kernels.experts import routes_inside
from planner.estimate.kernels.launches import Launches, launches
from planner.memory import MemoryInputs
from planner.ops import Batch, Op, OpKind, Slot
from planner.specs.engine import EngineSpec
from planner.specs.gpu import GpuSpec

SOFT = 2.0  # sharpness of the maximum of two times that hide in each other in part


class EngineTime(NamedTuple):
    """What the engine's time follows from; arrays (R,)."""

    engine: EngineSpec
    parallel: Parallel
    launches: Launches
    graph_batch: PerRow  # largest batch that a CUDA graph replays, in sequences or, of steps with prompts, in tokens
    captured_each: PerRow  # part of it that a decoding sequence takes
    router_s: PerRow  # of a layer of experts, to choose them; none where their own kernel does
    replays: PerRow  # whether the engine has CUDA graphs on the GPU; without them rates are those of launched kernels

    def seconds(self, batch: Batch, ops: Sequence[Op], accelerator_s: Floats, t0_s: PerRow) -> PerRow:
        """Seconds by which a step of `ops` takes longer than their `accelerator_s`.

        `t0_s`: start-up of a kernel by rate, as in `roofline.Rates`.
        """
        host = self.engine.host
        waits_s = host.step_s + self.ranks_s(batch) + host.sequence_s * batch.decode_seqs
        share = self.launched_share(batch)
        late_s = self.covered_s(batch, accelerator_s, share) - accelerator_s
        late_s = late_s + self.late_starts_s(ops, t0_s, share) + self.experts_s(ops)
        return waits_s + late_s + self.apart_s(batch) + self.between_products_s(ops)

    def launched_share(self, batch: Batch) -> PerRow:
        """Share of such steps, 0 to 1, that no CUDA graph replays: the host launches their kernels one by one.

        A mean of 1.4 sequences stands for steps of one sequence and, in 0.4 of them, of two.
        """
        graphs, tokens = self.engine.graphs.steps, batch.decode_seqs * self.captured_each + batch.prefill_tokens
        prefills = np.asarray(batch.prefill_tokens) > 0
        eager = (graphs == "none") | (prefills & (graphs == "decode"))
        beyond = tokens - np.minimum(self.graph_batch, 1 if graphs == "single" else np.inf)
        sharp = np.where(prefills, beyond > 0, np.clip(beyond / self.captured_each, 0, 1))
        mean = np.isnan(batch.beyond_share) | (graphs == "single")
        return np.where(eager, 1, np.where(mean, sharp, batch.beyond_share))

    def covered_s(self, batch: Batch, accelerator_s: Floats, share: PerRow) -> PerRow:
        """Seconds until both the accelerator and the host's work beside it are done, on average over such steps.

        The host launches all kernels of a `share` of them; of the others, which graphs replay, what lies between the
        graphs.
        """
        prompts = np.asarray(batch.prefill_tokens)
        kernels_s: PerRow = np.where(prompts > 0, self.launches.prompt_s(prompts), self.launches.decode_s)
        by_hand_s = self.engine.launches.step_s + kernels_s
        between_s = self.launches.between_s * (prompts > 0)
        if not np.any((share > 0) & (share < 1)):
            return self.beside_s(batch, accelerator_s, np.where(share > 0, by_hand_s, between_s))
        launched_s, replayed_s = (self.beside_s(batch, accelerator_s, host_s) for host_s in (by_hand_s, between_s))
        return share * launched_s + (1 - share) * replayed_s

    def beside_s(self, batch: Batch, accelerator_s: Floats, launch_s: PerRow) -> PerRow:
        """Seconds of the accelerator's work and of `launch_s` of the host beside it.

        The host also serves the running sequences; in a pipeline it also plans every stage's micro-batch, which hides
        in part. Prompts' launches hide in part too where the engine says so (`prompts_hide`).
        """
        host, prompts_hide = self.engine.host, self.engine.launches.prompts_hide
        per_rank = batch.decode_seqs / self.parallel.attention_dp
        beside_s = launch_s + host.beside_sequence_s * per_rank
        if host.stage_sequence_s:
            stages = np.asarray(self.parallel.pp)
            planned_s = np.where(stages > 1, host.stage_sequence_s * per_rank * stages, 0.0)
            beside_s = np.maximum(beside_s, p_norm(accelerator_s, planned_s, SOFT))
        both_s = np.maximum(accelerator_s, beside_s)
        if prompts_hide:
            hidden_s = p_norm(accelerator_s, beside_s, prompts_hide)
            both_s = np.where(np.asarray(batch.prefill_tokens) > 0, hidden_s, both_s)
        return both_s

    def apart_s(self, batch: Batch) -> PerRow:
        """Seconds that a replayed step without prompts loses where its graphs leave latent attention to the host."""
        if not np.any(self.launches.apart_s):
            return 0.0
        replayed = (np.asarray(batch.prefill_tokens) <= 0) * (1 - self.launched_share(batch))
        return self.launches.apart_s * replayed

    def late_starts_s(self, ops: Sequence[Op], t0_s: PerRow, share: PerRow) -> PerRow:
        """Seconds by which kernels of the `share` of steps that are launched start later than those of graphs."""
        factor = self.engine.launches.start_factor
        if factor == 1:
            return 0.0
        starts_s = sum(op.count * t0_s[op.rate] for op in ops)
        late = share * (self.replays | (self.engine.graphs.steps == "none"))
        return late * (factor - 1) * starts_s

    def experts_s(self, ops: Sequence[Op]) -> PerRow:
        """Seconds in which the host chooses experts, sorts their rows and starts them one after another."""
        routing, experts = self.engine.routing, [op for op in ops if op.kind is OpKind.MOE]
        if not (routing.expert_s or routing.router_s or routing.row_s):
            return 0.0
        host_s = sum(
            op.count * (routing.expert_s * op.matrices + self.router_s + routing.row_s * op.m) for op in experts
        )
        return np.where(self.replays, host_s, 0.0)

    def between_products_s(self, ops: Sequence[Op]) -> PerRow:
        """Seconds in which neither works, between products of the GPU and those of experts on the CPU."""
        return self.engine.routing.cpu_product_s * sum(
            op.count * np.sign(op.m) for op in ops if op.kind is OpKind.MOE and op.rate is Slot.HOST
        )

    def ranks_s(self, batch: Batch) -> PerRow:
        """Seconds in which the host serves the further GPUs of a tensor-parallel group, fewer in small steps."""
        host = self.engine.host
        if not host.rank_s:
            return 0.0
        busy = np.minimum(np.asarray(batch.decode_seqs) / host.rank_sequences, 1)
        return host.rank_s * (np.asarray(self.parallel.tp) - 1) * busy


def engine_time(
    engine: EngineSpec, deployments: Sequence[Deployment], inputs: MemoryInputs, kernels: Sequence[RateSet]
) -> EngineTime:
    """The engine's own time in deployments of one model, whose products run in these kernels."""
    return EngineTime(
        engine,
        inputs.parallel,
        launches(engine, deployments, kernels),
        captured(inputs),
        captured_each(engine, inputs),
        column(deployments, _router_s, Part.GPU, Part.WEIGHTS),
        column(deployments, lambda d: _replays(d.row.gpu, engine), Part.GPU, dtype=bool),
    )


def _router_s(d: Deployment) -> float:
    inside = routes_inside(d.row.engine, d.row.model, d.row.gpu, d.row.weights)
    return 0.0 if inside else d.row.engine.routing.router_s


def _replays(gpu: GpuSpec, engine: EngineSpec) -> bool:
    """Whether the engine captures CUDA graphs on this GPU."""
    return gpu.runs_cuda and gpu.generation not in engine.graphs.none_on
