"""From deployments of one model and engine to their memory plans: inputs of `planner.memory` as arrays (R,)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner import memory
from planner.estimate.deployments import Deployment, Deployments, Floats, Part, column, numbers, parallel, replicas
from planner.estimate.hosting import settings_of
from planner.estimate.kernels.launches import piece_tokens
from planner.estimate.kernels.routers import router_bytes
from planner.estimate.loads import length_log_sd, prompt_lengths
from planner.formats import FP32_BYTES, HALF_BYTES, tensor_bytes
from planner.memory import MemoryInputs, MemoryPlan, memory_plan
from planner.params import tensors
from planner.specs.engine import Allocation, EngineSpec
from planner.specs.gpu import uses_link
from planner.specs.model import Role
from planner.units import GIB

WIDE_TP = 4  # tensor-parallel group from which SGLang captures larger batches
HOPPER = 9.0  # compute capability
SWITCHED = 8  # GPUs; a link that joins at least so many goes through a switch
MOST_SLOTS = 256.0  # llama.cpp: LLAMA_MAX_SEQ
DEVIATIONS = 3.0  # of a Poisson number above its mean: exceeded in about one moment of several hundred


def draft_columns(deployments: Sequence[Deployment]) -> Floats:
    """Resident bytes of every tensor of the draft model, (T, R)."""
    draft = deployments[0].row.draft
    assert draft is not None and draft.model is not None
    one = tensor_bytes(draft.model, draft.weights, True)
    return np.broadcast_to(one[:, None], (len(one), len(deployments)))


def weight_columns(deployments: Sequence[Deployment]) -> Floats:
    """Resident bytes of every tensor, (T, R); computed once for every format and division of the experts."""
    kinds, at = Deployments.of(deployments).alike(Part.WEIGHTS, Part.LAYOUT, Part.WORDS)
    keys = [(d.row.weights.id, d.layout.tp // d.layout.defined.ep, _leaves_encoder(d)) for d in kinds]
    rows = dict(zip(keys, (d.row for d in kinds), strict=True))
    columns = {key: tensor_bytes(row.model, row.weights, True, expert_shards=key[1]) for key, row in rows.items()}
    seen = np.array([tensor.role is not Role.VISION for tensor in tensors(deployments[0].row.model)])
    keyed = np.stack([columns[key] * seen if key[2] else columns[key] for key in keys], axis=-1)
    return np.take(keyed, at, axis=-1)


def _leaves_encoder(d: Deployment) -> bool:
    """Whether the engine loads the model without its image encoder."""
    rules, sent = d.row.engine.weights, d.row.scenario.images_per_request
    return (rules.separate_encoder and not sent) or (rules.optional_encoder and _text_alone(d))


def _text_alone(d: Deployment) -> bool:
    """Whether the engine is told that no request will have images."""
    return d.row.scenario.images_per_request == 0


class KvWidths(NamedTuple):
    """Bytes that the KV format takes, (R,)."""

    key: Floats  # of one number of a cached key
    value: Floats  # of one number of a cached value
    head: Floats  # beside these per head and token, such as scales


def kv_widths(deployments: Sequence[Deployment]) -> KvWidths:
    """What the KV formats of keys and of values take."""
    return KvWidths(
        column(deployments, lambda d: d.row.kv[0].bytes_per_value, Part.CACHE),
        column(deployments, lambda d: d.row.kv[1].bytes_per_value, Part.CACHE),
        column(deployments, lambda d: d.row.kv[0].head_bytes + d.row.kv[1].head_bytes, Part.CACHE),
    )


def graph_batches(deployments: Sequence[Deployment]) -> Floats:
    """Largest batch that is captured as a CUDA graph, (R,): as the scenario states it, else the engine's own limit."""
    defaults = deployments[0].row.engine.defaults
    if deployments[0].row.model.model_type in defaults.wide_graph_types:
        return numbers(deployments, "max_cudagraph_capture_size", defaults.wide_graph_batch)

    def own(d: Deployment) -> int:
        if d.row.gpu.generation in defaults.wide_graph_on:
            return defaults.wide_graph_batch
        return d.limits.graph_batch_tp4 if d.layout.tp >= WIDE_TP else d.limits.graph_batch

    limit = column(deployments, own, Part.GPU, Part.LIMITS, Part.LAYOUT)
    if defaults.graph_slot_tokens is not None:
        tokens = numbers(deployments, "max_num_seqs") * (1 + numbers(deployments, "speculative_tokens", 0))
        limit = np.minimum(limit, defaults.graph_slot_tokens * tokens)
    return numbers(deployments, "max_cudagraph_capture_size", limit)


def _linked(d: Deployment) -> bool:
    """Whether a switch joins the GPUs, which can add up messages; bridges and the links of GH200 nodes cannot."""
    gpu = d.row.gpu
    switched = bool(gpu.link_bytes_per_s) and (gpu.link_gpus or 0) >= SWITCHED
    return switched and uses_link(gpu.link_apart, d.row.scenario.interconnect)


def _device(engine: EngineSpec, deployments: Sequence[Deployment]) -> memory.Device:
    """The memory of a GPU, and the properties that decide how much of it libraries take."""
    flags, reserve = partial(column, deployments, dtype=bool), engine.budget.reserve

    def on(generations: Sequence[str]) -> NDArray[np.bool_]:
        on_it: NDArray[np.bool_] = flags(lambda d: d.row.gpu.generation in generations, Part.GPU)
        return on_it

    early = flags(lambda d: (d.row.gpu.compute_capability or HOPPER) < HOPPER, Part.GPU)
    linked = flags(_linked, Part.GPU, Part.WORDS)
    named = flags(lambda d: d.row.gpu.compute_capability is not None, Part.GPU)
    return memory.Device(
        total_bytes=numbers(deployments, "device_gib", 0) * GIB,
        reserved_bytes=numbers(deployments, "reserved_gib", 0) * GIB,
        copies=numbers(deployments, "copies_per_gpu", 1),
        host_bytes=numbers(deployments, "host_memory_gib", np.inf) * GIB,
        early=early,
        aiter=on(reserve.aiter_on if reserve else ()),
        flashinfer=on(engine.graphs.attention_on),
        flashinfer_8bit=on(engine.graphs.attention_8bit_on),
        plain_latents=on(engine.cache.plain_latents_on),
        unified=flags(lambda d: d.row.gpu.unified_memory, Part.GPU),
        multicast=linked & named & ~early,
    )


def _settings(engine: EngineSpec, deployments: Sequence[Deployment]) -> memory.Settings:
    """The engine's settings: as stated, else its defaults. The memory fraction is nan where it is not stated."""
    flags = partial(column, deployments, dtype=bool)
    prefixes = flags(lambda d: d.row.scenario.prefix_caching is not False, Part.SCENARIO)
    return memory.Settings(
        utilization=numbers(deployments, "gpu_memory_utilization", np.nan),
        max_num_seqs=rank_slots(engine, deployments),
        max_num_batched_tokens=numbers(deployments, "max_num_batched_tokens"),
        max_model_len=numbers(deployments, "max_model_len", deployments[0].row.model.max_position),
        max_model_len_given=~np.isnan(numbers(deployments, "max_model_len", np.nan)),
        block_tokens=numbers(deployments, "block_size", engine.cache.block_tokens),
        enforce_eager=flags(lambda d: d.row.scenario.enforce_eager, Part.WORDS),
        states_asked=~prefixes & ~np.isnan(server_slots(engine, deployments)),
        text_alone=flags(_text_alone, Part.WORDS),
        n_ubatch=numbers(deployments, "n_ubatch", engine.defaults.n_ubatch),
        flash_attention=flags(lambda d: d.row.scenario.flash_attention is not False, Part.WORDS),
        graph_batch=graph_batches(deployments),
        cpu_offload_bytes=numbers(deployments, "cpu_offload_gib", 0) * GIB,
        **settings_of(deployments),
    )


def _value_bytes(d: Deployment) -> float:
    return FP32_BYTES if d.row.weights.base_dtype == "fp32" else HALF_BYTES


def rank_slots(engine: EngineSpec, deployments: Sequence[Deployment]) -> Floats:
    """Most sequences of one attention-DP rank: as the scenario states them, of a rank or of all, else the default."""
    slots = numbers(deployments, "max_num_seqs")
    if engine.scheduler.rank_slots:
        return slots
    together = server_slots(engine, deployments)
    shared = np.maximum(np.floor(together / np.asarray(parallel(deployments).attention_dp)), 1)
    return np.where(np.isnan(together), slots, shared)


def server_slots(engine: EngineSpec, deployments: Sequence[Deployment]) -> Floats:
    """Most sequences of all attention-DP ranks together: as stated, by the model's type or of servers that draft;
    nan: each rank's default.
    """
    defaults, of_type = engine.defaults, deployments[0].row.model.model_type
    stated = numbers(deployments, "max_num_seqs", np.nan)
    if of_type in defaults.server_slots_types:
        return np.where(np.isnan(stated), defaults.server_slots, stated)
    if defaults.drafted_slots is None:
        return stated
    drafts = column(deployments, lambda d: bool(d.row.scenario.draft_model), Part.SCENARIO, dtype=bool)
    return np.where(np.isnan(stated) & drafts, defaults.drafted_slots, stated)


def memory_inputs(engine: EngineSpec, deployments: Sequence[Deployment], in_flight: Floats) -> MemoryInputs:
    """Inputs of the memory plan, with `in_flight` requests on the whole deployment."""
    split, device, settings = parallel(deployments), _device(engine, deployments), _settings(engine, deployments)
    default = memory.default_utilization(engine, device, settings, split, _runs(engine, deployments))
    given = settings.utilization
    kv, prompts = kv_widths(deployments), prompt_lengths(deployments).tokens
    outputs = numbers(deployments, "output_tokens", 0)
    return MemoryInputs(
        tensor_bytes=weight_columns(deployments),
        kv_k_bytes=kv.key,
        kv_v_bytes=kv.value,
        kv_head_bytes=kv.head,
        value_bytes=column(deployments, _value_bytes, Part.WEIGHTS),
        router_bytes=column(deployments, router_bytes, Part.WEIGHTS, Part.GPU),
        device=device,
        settings=settings._replace(utilization=np.where(np.isnan(given), default, given)),
        load=memory.ReplicaLoad(
            input_tokens=prompts,
            output_tokens=outputs,
            concurrency=np.ceil(in_flight / replicas(deployments)),
            shared_prefix_tokens=numbers(deployments, "shared_prefix_tokens", 0),
            written=np.exp(length_log_sd(deployments, "output", outputs) ** 2) / 2,
        ),
        parallel=split,
        draft=_draft(deployments, kv),
    )


def _runs(engine: EngineSpec, deployments: Sequence[Deployment]) -> memory.Runs:
    row = deployments[0].row
    drafts = row.draft is not None and row.draft.model is not None
    return memory.Runs(row.model, drafts, piece_tokens(engine, deployments))


def _draft(deployments: Sequence[Deployment], kv: KvWidths) -> memory.Draft | None:
    """The draft model as the memory plan sees it; None where no model drafts. Rows of a group share it."""
    draft = deployments[0].row.draft
    if draft is None or draft.model is None:
        return None
    return memory.Draft(draft.model, draft_columns(deployments), kv.key, kv.value, draft.own_vocabulary)


class Planned(NamedTuple):
    """Inputs and result of a memory plan, (R,)."""

    inputs: MemoryInputs
    plan: MemoryPlan


def planned(engine: EngineSpec, deployments: Sequence[Deployment], in_flight: Floats) -> Planned:
    """The memory plan with `in_flight` requests on the whole deployment.

    An engine that allocates every slot's context at start gets the slots that the scenario states, else as many as the
    load takes, at most as many as fit.
    """
    model = deployments[0].row.model
    inputs = memory_inputs(engine, deployments, in_flight)
    if engine.cache.allocation is not Allocation.CONTEXT:
        return Planned(inputs, memory_plan(model, engine, inputs))
    asks = asks_slots(deployments)
    slots = np.fmax(numbers(deployments, "parallel_slots", np.nan), numbers(deployments, "max_num_seqs", np.nan))
    room = memory.slots_that_fit(model, engine, inputs, np.where(asks, MOST_SLOTS, slots))
    fitting = np.clip(_slots_taken(deployments, np.asarray(inputs.load.concurrency)), 1, np.maximum(room, 1))
    inputs = memory.with_slots(inputs, np.where(asks, fitting, slots))
    plan = memory_plan(model, engine, inputs)
    kv = plan.kv._replace(max_concurrency=room, max_concurrency_expected=room)
    holds = plan.verdict.starts & (np.asarray(inputs.load.concurrency) <= np.asarray(inputs.settings.max_num_seqs))
    return Planned(inputs, MemoryPlan(plan.terms, kv, plan.verdict._replace(holds_load=holds)))


def _slots_taken(deployments: Sequence[Deployment], standing: Floats) -> Floats:
    """Slots of a replica such that one is nearly always free, for `standing` requests in the mean.

    In a closed loop that is their number. Requests that arrive at random are Poisson distributed, with a deviation of
    sqrt(N), and never more than the scenario admits or has users.
    """
    rate, users = (numbers(deployments, name, np.nan) for name in ("request_rate_per_s", "users"))
    peak = numbers(deployments, "peak_to_mean", 1)
    most = np.fmin(numbers(deployments, "concurrency", np.inf), np.where(np.isnan(users), np.inf, users * peak))
    swarm = np.minimum(standing + DEVIATIONS * np.sqrt(standing), most / replicas(deployments))
    return np.where(np.isnan(rate) & np.isnan(users), standing, np.ceil(np.maximum(swarm, standing)))


def asks_slots(deployments: Sequence[Deployment]) -> NDArray[np.bool_]:
    """Rows whose number of slots follows the load, because the scenario does not state it."""
    slots, sequences = (numbers(deployments, name, np.nan) for name in ("parallel_slots", "max_num_seqs"))
    return np.isnan(slots) & np.isnan(sequences)
