"""Memory and time of many deployments of one model in one engine: everything else is an array over rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner import memory, serving
from planner.estimate.deployments import Deployment, Deployments, Floats, Part, column, numbers, parallel, replicas
from planner.estimate.hosting import settings_of
from planner.estimate.launches import piece_tokens
from planner.formats import FP32_BYTES, HALF_BYTES, tensor_bytes
from planner.memory import MemoryInputs, MemoryPlan, memory_plan
from planner.params import tensors
from planner.serving import Capacity, FrontEnd, Load, Scheduling
from planner.specs.engine import Allocation, EngineSpec
from planner.specs.gpu import uses_link
from planner.specs.model import LatentAttention, Role
from planner.units import GIB

DEFAULT_IMAGE_PIXELS = 1024.0 * 1024.0
WIDE_TP = 4  # group from which SGLang captures larger batches
HOPPER = 9.0  # compute capability
AITER = ("cdna3", "cdna4")  # generations for which AMD's own attention kernels are built
SWITCHED = 8  # GPUs that a link joins, from which a switch does
MOST_SLOTS = 256.0  # llama.cpp: LLAMA_MAX_SEQ


def draft_columns(deployments: Sequence[Deployment]) -> Floats:
    """Resident bytes of every tensor of the draft model, (T, R)."""
    draft = deployments[0].row.draft
    assert draft is not None and draft.model is not None
    one = tensor_bytes(draft.model, draft.weights, True)
    return np.broadcast_to(one[:, None], (len(one), len(deployments)))


def weight_columns(deployments: Sequence[Deployment]) -> Floats:
    """Resident bytes of every tensor, (T, R); each distinct format is priced once."""
    kinds, at = Deployments.of(deployments).alike(Part.WEIGHTS, Part.LAYOUT, Part.WORDS)
    keys = [(d.row.weights.id, d.layout.tp // d.layout.defined.ep, _leaves_encoder(d)) for d in kinds]
    rows = dict(zip(keys, (d.row for d in kinds), strict=True))
    columns = {key: tensor_bytes(row.model, row.weights, True, expert_shards=key[1]) for key, row in rows.items()}
    seen = np.array([tensor.role is not Role.VISION for tensor in tensors(deployments[0].row.model)])
    found = np.stack([columns[key] * seen if key[2] else columns[key] for key in keys], axis=-1)
    return np.take(found, at, axis=-1)


def _leaves_encoder(d: Deployment) -> bool:
    """Whether the engine loads the model without its image encoder, because no request has images."""
    return d.row.engine.weights.separate_encoder and not d.row.scenario.images_per_request


def kv_widths(deployments: Sequence[Deployment]) -> tuple[Floats, Floats, Floats]:
    """Bytes per cached key value, per cached value, and more per head and token."""
    return (
        column(deployments, lambda d: d.row.kv[0].bytes_per_value, Part.CACHE),
        column(deployments, lambda d: d.row.kv[1].bytes_per_value, Part.CACHE),
        column(deployments, lambda d: d.row.kv[0].head_bytes + d.row.kv[1].head_bytes, Part.CACHE),
    )


class Images(NamedTuple):
    """What a request's images add, (R,)."""

    tokens: Floats  # to its prompt
    patches: Floats  # through the image encoder
    patches_per_image: Floats


def images(deployments: Sequence[Deployment]) -> Images:
    """Patches and tokens of the images of one request; none without an encoder."""
    vision = deployments[0].row.model.vision
    count = numbers(deployments, "images_per_request", 0)
    if vision is None:
        return Images(np.zeros_like(count), np.zeros_like(count), np.ones_like(count))
    pixels = numbers(deployments, "image_pixels", DEFAULT_IMAGE_PIXELS)
    side = vision.merge**2
    each = np.full_like(count, vision.tokens_per_image * side) if vision.tokens_per_image else pixels / vision.patch**2
    return Images(count * np.ceil(each / side), count * each, each)


def prompt_lengths(deployments: Sequence[Deployment]) -> tuple[Floats, Floats]:
    """Mean prompt and the part of it that the request's own history has cached, conversations included."""
    prompts = numbers(deployments, "input_tokens", 0) + images(deployments).tokens
    outputs = numbers(deployments, "output_tokens", 0)
    prefix, turns = numbers(deployments, "shared_prefix_tokens", 0), numbers(deployments, "turns", 1)
    talk = serving.conversation(prompts, outputs, turns, prefix)
    given = numbers(deployments, "cached_input_fraction", 0) * np.maximum(talk.input_tokens - prefix, 0)
    cached = np.maximum(given, talk.cached_tokens)
    return talk.input_tokens, cached / np.maximum(talk.input_tokens - prefix, 1)


def graph_batches(deployments: Sequence[Deployment]) -> Floats:
    """Largest batch of each row that is captured as a CUDA graph: as stated, else the engine's own limit."""
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
    """Over a switch; bridges, and the links of a node of GH200, do not add up."""
    gpu = d.row.gpu
    switched = bool(gpu.link_bytes_per_s) and (gpu.link_gpus or 0) >= SWITCHED
    return switched and uses_link(gpu.link_apart, d.row.scenario.interconnect)


def _hardware(deployments: Sequence[Deployment]) -> dict[str, Any]:
    """What of the GPUs decides how much their libraries take."""
    flags = partial(column, deployments, dtype=bool)
    early = flags(lambda d: (d.row.gpu.compute_capability or HOPPER) < HOPPER, Part.GPU)
    linked = flags(_linked, Part.GPU, Part.WORDS)
    named = flags(lambda d: d.row.gpu.compute_capability is not None, Part.GPU)
    return {
        "early": early,
        "aiter": flags(lambda d: d.row.gpu.generation in AITER, Part.GPU),
        "unified": flags(lambda d: d.row.gpu.unified_memory, Part.GPU),
        "multicast": linked & named & ~early,
    }


def _value_bytes(d: Deployment) -> float:
    return FP32_BYTES if d.row.weights.base_dtype == "fp32" else HALF_BYTES


def memory_inputs(engine: EngineSpec, deployments: Sequence[Deployment], in_flight: Floats) -> MemoryInputs:
    """What the memory plan asks for, with `in_flight` requests on the whole deployment."""
    split, share = parallel(deployments), replicas(deployments)
    device = memory.Device(
        total_bytes=numbers(deployments, "device_gib", 0) * GIB,
        reserved_bytes=numbers(deployments, "reserved_gib", 0) * GIB,
        copies=numbers(deployments, "copies_per_gpu", 1),
        host_bytes=numbers(deployments, "host_memory_gib", np.inf) * GIB,
    )
    device = device._replace(**_hardware(deployments))
    per_replica = np.ceil(in_flight / share)
    settings = memory.Settings(
        utilization=np.nan,
        max_num_seqs=numbers(deployments, "max_num_seqs"),
        max_num_batched_tokens=numbers(deployments, "max_num_batched_tokens"),
        max_model_len=numbers(deployments, "max_model_len", deployments[0].row.model.max_position),
        max_model_len_given=~np.isnan(numbers(deployments, "max_model_len", np.nan)),
        block_tokens=numbers(deployments, "block_size", engine.cache.block_tokens),
        enforce_eager=column(deployments, lambda d: d.row.scenario.enforce_eager, Part.WORDS, dtype=bool),
        n_ubatch=numbers(deployments, "n_ubatch", engine.defaults.n_ubatch),
        flash_attention=column(
            deployments, lambda d: d.row.scenario.flash_attention is not False, Part.WORDS, dtype=bool
        ),
        graph_batch=graph_batches(deployments),
        cpu_offload_bytes=numbers(deployments, "cpu_offload_gib", 0) * GIB,
        **settings_of(deployments),
    )
    default = memory.default_utilization(engine, device, settings, split, _runs(engine, deployments))
    given = numbers(deployments, "gpu_memory_utilization", np.nan)
    k, v, head = kv_widths(deployments)
    (prompts, _), outputs = prompt_lengths(deployments), numbers(deployments, "output_tokens", 0)
    return MemoryInputs(
        tensor_bytes=weight_columns(deployments),
        kv_k_bytes=k,
        kv_v_bytes=v,
        kv_head_bytes=head,
        value_bytes=column(deployments, _value_bytes, Part.WEIGHTS),
        device=device,
        settings=settings._replace(utilization=np.where(np.isnan(given), default, given)),
        load=memory.ReplicaLoad(
            input_tokens=prompts,
            output_tokens=outputs,
            concurrency=per_replica,
            shared_prefix_tokens=numbers(deployments, "shared_prefix_tokens", 0),
            written=np.exp(length_log_sd(deployments, "output", outputs) ** 2) / 2,
        ),
        parallel=split,
        draft=_draft(deployments, k, v),
    )


def _runs(engine: EngineSpec, deployments: Sequence[Deployment]) -> memory.Runs:
    row = deployments[0].row
    drafts = row.draft is not None and row.draft.model is not None
    return memory.Runs(row.model, drafts, piece_tokens(engine, deployments))


def _draft(deployments: Sequence[Deployment], k: Floats, v: Floats) -> memory.Draft | None:
    """The draft model's own part of a memory plan; rows of a group share it."""
    draft = deployments[0].row.draft
    if draft is None or draft.model is None:
        return None
    return memory.Draft(draft.model, draft_columns(deployments), k, v, draft.own_vocabulary)


def memory_of(
    engine: EngineSpec, deployments: Sequence[Deployment], in_flight: Floats
) -> tuple[MemoryInputs, MemoryPlan]:
    """The memory plan with `in_flight` requests on the whole deployment.

    An engine that allocates every slot's context at start gets as many slots as are asked for and fit, unless
    the scenario states them.
    """
    model = deployments[0].row.model
    inputs = memory_inputs(engine, deployments, in_flight)
    if engine.cache.allocation is not Allocation.CONTEXT:
        return inputs, memory_plan(model, engine, inputs)
    asks = _asks_slots(deployments)
    slots = np.fmax(numbers(deployments, "parallel_slots", np.nan), numbers(deployments, "max_num_seqs", np.nan))
    room = memory.slots_that_fit(model, engine, inputs, np.where(asks, MOST_SLOTS, slots))
    fitting = np.clip(np.asarray(inputs.load.concurrency), 1, np.maximum(room, 1))
    inputs = memory.with_slots(inputs, np.where(asks, fitting, slots))
    plan = memory_plan(model, engine, inputs)
    kv = plan.kv._replace(max_concurrency=room, max_concurrency_expected=room)
    holds = plan.verdict.starts & (np.asarray(inputs.load.concurrency) <= np.asarray(inputs.settings.max_num_seqs))
    return inputs, MemoryPlan(plan.terms, kv, plan.verdict._replace(holds_load=holds))


def length_log_sd(deployments: Sequence[Deployment], which: str, mean: Floats) -> Floats:
    """Spread of the lengths of "input" or "output": from their 95th percentile, else from the shortest; else 0."""
    tail = numbers(deployments, f"{which}_tokens_p95", np.nan)
    even = serving.uniform_log_sd(numbers(deployments, "shortest_fraction", 1))
    return np.where(np.isnan(tail), even, serving.log_sd(mean, tail))


def load_of(deployments: Sequence[Deployment]) -> Load:
    """The load on the whole deployment, peaks included."""
    peak = numbers(deployments, "peak_to_mean", 1)
    users = numbers(deployments, "users", np.nan) * peak
    rate = numbers(deployments, "request_rate_per_s", np.nan) * peak
    prompts, cached = prompt_lengths(deployments)
    outputs = numbers(deployments, "output_tokens", 0)
    seen, waves = images(deployments), numbers(deployments, "waves", 0)
    closed = np.where(np.isnan(users), np.inf, users)
    return Load(
        input_tokens=prompts,
        output_tokens=outputs,
        concurrency=np.fmin(numbers(deployments, "concurrency", np.inf), closed),
        request_rate_per_s=rate,
        think_time_s=np.where(np.isnan(users), 0.0, numbers(deployments, "think_time_s", 0)),
        shared_prefix_tokens=numbers(deployments, "shared_prefix_tokens", 0),
        cached_input_fraction=np.minimum(cached, 1.0),
        waves=np.where(waves > 0, waves, np.inf),
        equal_lengths=numbers(deployments, "shortest_fraction", np.nan) == 1,
        input_log_sd=length_log_sd(deployments, "input", prompts),
        output_log_sd=length_log_sd(deployments, "output", outputs),
        tokens_per_step=_tokens_per_step(deployments),
        image_patches=seen.patches,
        patches_per_image=seen.patches_per_image,
        run_requests=numbers(deployments, "run_requests", np.inf),
    )


def _tokens_per_step(deployments: Sequence[Deployment]) -> Floats | float:
    """Tokens that a verified step yields; 1 where nobody drafts."""
    if deployments[0].row.draft is None:
        return 1.0
    drafted, accepted = numbers(deployments, "speculative_tokens", 0), numbers(deployments, "acceptance_rate", 0)
    return serving.speculative_tokens_per_step(accepted, drafted)


def is_closed(load: Load) -> NDArray[np.bool_]:
    """Rows whose requests in flight are stated; elsewhere they follow from a rate or from thinking users."""
    return np.asarray(np.isnan(load.request_rate_per_s) & (np.asarray(load.think_time_s) == 0))


def capacity_of(
    engine: EngineSpec, plan: MemoryPlan, inputs: MemoryInputs, deployments: Sequence[Deployment]
) -> Capacity:
    """What one replica runs at once, as the engine admits: by the prompt, or by the full length of every slot."""
    slots = np.asarray(inputs.settings.max_num_seqs, dtype=float)
    ranks = np.asarray(inputs.parallel.attention_dp if engine.scheduler.rank_budget else 1.0)
    reserved = engine.cache.allocation is Allocation.CONTEXT
    whole = reserved or engine.cache.reserves_full
    sequences = np.maximum(plan.kv.max_concurrency if whole else plan.kv.max_concurrency_expected, 1)
    return Capacity(
        sequences=sequences,
        max_num_seqs=np.where(reserved & _asks_slots(deployments), sequences, slots) * inputs.parallel.attention_dp,
        max_num_batched_tokens=step_room(engine, inputs) * ranks,
        chunks_mixed=engine.scheduler.chunks_mixed,
        lanes=inputs.parallel.pp,
        chunk_overlap=_chunk_overlap(engine, deployments),
        replicas=replicas(deployments),
        graph_batch=captured(inputs),
        computed_again=engine.cache.computed_again,
        waits_on=inputs.parallel.pp if engine.scheduler.stages_wait else 1.0,
    )


def _chunk_overlap(engine: EngineSpec, deployments: Sequence[Deployment]) -> Any:
    """How far chunks of one prompt overlap in the stages of a pipeline: not where the host waits between experts.

    Nor on other GPUs than NVIDIA's, whose back-ends have no events between devices.
    """
    overlap = engine.scheduler.chunk_overlap
    if not overlap or deployments[0].row.model.has_experts:
        return 0.0
    return column(deployments, lambda d: overlap * (d.row.gpu.vendor == "NVIDIA"), Part.GPU)


def captured(inputs: MemoryInputs) -> Floats:
    """Largest batch of each row that a CUDA graph replays; attention data-parallel ranks replay one each."""
    ranks = np.asarray(inputs.parallel.attention_dp)
    return np.where(inputs.settings.enforce_eager, 0.0, inputs.settings.graph_batch * ranks)


def step_room(engine: EngineSpec, inputs: MemoryInputs) -> Floats:
    """Most tokens of one pass through the layers: llama.cpp cuts its batch into physical batches."""
    physical = engine.activation.logit_rows == "tokens"
    return np.asarray(inputs.settings.n_ubatch if physical else inputs.settings.max_num_batched_tokens, dtype=float)


def _asks_slots(deployments: Sequence[Deployment]) -> NDArray[np.bool_]:
    """Rows whose number of slots follows the load, because the scenario does not state it."""
    slots, sequences = (numbers(deployments, name, np.nan) for name in ("parallel_slots", "max_num_seqs"))
    return np.isnan(slots) & np.isnan(sequences)


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
    return FrontEnd(
        request_s=server.request_s + server.latent_layer_s * model.layers_of(LatentAttention),
        input_token_s=server.prompt_token_s,
        serial_s=_serial_s(engine, deployments),
    )


def _serial_s(engine: EngineSpec, deployments: Sequence[Deployment]) -> Floats:
    """Seconds of a request in the front end's turn; a run of one wave is a library's own, without a server."""
    server = engine.front_end
    sent_s = server.serial_token_s * numbers(deployments, "output_tokens", 0) / server.stream_interval
    alone = numbers(deployments, "waves", np.inf) == 1
    return np.where(alone, 0.0, np.maximum(server.serial_request_s, sent_s))
