"""What the engine allows: how much one replica runs at once, when prompts start, what the server adds to a request."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from planner import serving
from planner.arrays import PerRow
from planner.estimate.deployments import Deployment, Floats, Part, column, numbers, parallel, replicas
from planner.estimate.kernels.launches import launch_scale
from planner.estimate.loads import is_closed
from planner.estimate.memory_plans import Planned, asks_slots
from planner.memory import KvCapacity, MemoryInputs, MemoryPlan
from planner.serving import Capacity, FrontEnd, Load, Scheduling, ServingPoint
from planner.serving.steps import StepTime
from planner.specs.engine import Allocation, EngineSpec
from planner.specs.model import LatentAttention


def offered_to(
    engine: EngineSpec, deployments: Sequence[Deployment], memory: Planned, load: Load, step_s: StepTime
) -> serving.Offered:
    """The load beside the curve of these deployments."""
    capacity = capacity_of(engine, memory.plan, memory.inputs, deployments)
    return serving.offer(step_s, load, capacity, scheduling_of(engine, deployments), front_end_of(engine, deployments))


def capacity_of(
    engine: EngineSpec, plan: MemoryPlan, inputs: MemoryInputs, deployments: Sequence[Deployment]
) -> Capacity:
    """What one replica runs at once. An engine admits requests by their prompt, or by the full length of every slot."""
    slots = np.asarray(inputs.settings.max_num_seqs, dtype=float)
    ranks = np.asarray(inputs.parallel.attention_dp if engine.scheduler.rank_budget else 1.0)
    reserved = engine.cache.allocation is Allocation.CONTEXT
    whole = reserved or engine.cache.reserves_full
    sequences = np.maximum(plan.kv.max_concurrency if whole else plan.kv.max_concurrency_expected, 1)
    return Capacity(
        sequences=sequences,
        max_num_seqs=np.where(reserved & asks_slots(deployments), sequences, slots) * inputs.parallel.attention_dp,
        max_num_batched_tokens=step_room(engine, inputs) * ranks,
        chunks_mixed=engine.scheduler.chunks_mixed,
        lanes=inputs.parallel.pp,
        chunk_overlap=_chunk_overlap(engine, deployments),
        replicas=replicas(deployments),
        graph_batch=captured(inputs) / captured_each(engine, inputs),
        graph_each=captured_each(engine, inputs),
        computed_again=engine.cache.computed_again,
        waits_on=inputs.parallel.pp if engine.scheduler.stages_wait else 1.0,
    )


def room(kv: KvCapacity, load: Load) -> Floats:
    """Requests of one replica for which the KV pool is sufficient: at full length where they always stand, at their
    mean length where they come and go.
    """
    return np.where(is_closed(load), kv.max_concurrency, kv.max_concurrency_expected)


def has_room(point: ServingPoint, in_flight: Floats, room: Floats) -> NDArray[np.bool_]:
    """Whether the deployment completes what is asked and holds all requests in flight at once; one is always held."""
    return np.asarray(~point.above_capacity & (in_flight <= np.maximum(room, 1)))


def _chunk_overlap(engine: EngineSpec, deployments: Sequence[Deployment]) -> PerRow:
    """How far chunks of one prompt overlap in pipeline stages: not at all where the host waits between experts.

    Nor without CUDA: the other back-ends have no events between devices.
    """
    overlap = engine.scheduler.chunk_overlap
    if not overlap or deployments[0].row.model.has_experts:
        return 0.0
    return column(deployments, lambda d: overlap * (d.row.gpu.runs_cuda), Part.GPU)


def captured(inputs: MemoryInputs) -> Floats:
    """Largest batch of each row that a CUDA graph replays; attention data-parallel ranks replay one each."""
    ranks = np.asarray(inputs.parallel.attention_dp)
    return np.where(inputs.settings.enforce_eager, 0.0, inputs.settings.graph_batch * ranks)


def captured_each(engine: EngineSpec, inputs: MemoryInputs) -> PerRow:
    """What a decoding sequence takes of a captured batch: graphs of all steps are sized by tokens, drafted ones among
    them, those of decodes by sequences.
    """
    return 1.0 + np.asarray(inputs.settings.draft_tokens) * (engine.graphs.steps == "mixed")


def step_room(engine: EngineSpec, inputs: MemoryInputs) -> Floats:
    """Most tokens of one pass through the layers: the step's budget, or llama.cpp's physical batch."""
    physical = engine.activation.logit_rows == "tokens"
    return np.asarray(inputs.settings.n_ubatch if physical else inputs.settings.max_num_batched_tokens, dtype=float)


def scheduling_of(engine: EngineSpec, deployments: Sequence[Deployment]) -> Scheduling:
    """When the engine starts prompts, and which of them together."""
    scheduler, ranks = engine.scheduler, np.asarray(parallel(deployments).attention_dp)
    return Scheduling(
        late_steps=scheduler.late_steps,
        poll_steps=numbers(deployments, "scheduler_recv_interval", 1),
        ranks=ranks if scheduler.ranks_together else 1.0,
        balance_steps=scheduler.balance_steps,
        attention_ranks=ranks,
        group_prompts=scheduler.group_prompts,
        group_share=scheduler.group_share,
        group_whole=scheduler.group_whole,
        group_waves=scheduler.group_waves,
    )


def front_end_of(engine: EngineSpec, deployments: Sequence[Deployment]) -> FrontEnd:
    """Engine time outside of steps."""
    server, model = engine.front_end, deployments[0].row.model
    launched_s = server.latent_layer_s * model.layers_of(LatentAttention)
    return FrontEnd(
        request_s=server.request_s + launched_s * launch_scale(deployments),
        input_token_s=server.prompt_token_s,
        tokenizer_token_s=server.tokenizer_token_s,
        serial_s=_serial_s(engine, deployments),
    )


def _serial_s(engine: EngineSpec, deployments: Sequence[Deployment]) -> Floats:
    """Seconds for which the front end serves one request alone; none for a run of one wave, a library call."""
    server = engine.front_end
    sent_s = server.serial_token_s * numbers(deployments, "output_tokens", 0) / server.stream_interval
    alone = numbers(deployments, "waves", np.inf) == 1
    return np.where(alone, 0.0, np.maximum(server.serial_request_s, sent_s))
