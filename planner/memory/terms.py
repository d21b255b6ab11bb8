"""What goes into a memory plan and what comes out of it.

Every array has the shape (R,), one row per deployment, or is a scalar that stands for all rows; inside the
package S pipeline stages precede R, and K kinds of cache precede S.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.collectives import Parallel
from planner.specs.model import ModelSpec

Floats = NDArray[np.float64]
Array = NDArray[np.float64] | float
Flags = NDArray[np.bool_] | bool


def floats(value: Any) -> Floats:
    """Any number or array as float64."""
    return np.asarray(value, dtype=np.float64)


class Device(NamedTuple):
    """The GPU a deployment runs on, as one of its ranks sees it."""

    total_bytes: Array  # what cudaMemGetInfo reports as total
    reserved_bytes: Array = 0.0  # taken by others on the card
    copies: Array = 1.0  # deployments that share the card
    host_bytes: Array = np.inf  # of host memory, for all GPUs of a replica
    early: Flags = False  # before Hopper
    unified: Flags = False  # its memory is the host's
    aiter: Flags = False  # AMD's attention kernels for Instinct run on it
    flashinfer: Flags = False  # FlashInfer's attention runs on it ...
    flashinfer_8bit: Flags = False  # ... for caches of fewer than 16 bits
    plain_latents: Flags = False  # latents in 8 bit that an indexer picks from have no scales
    multicast: Flags = True  # joined by NVLink that adds up in the switch: Hopper and later


class Settings(NamedTuple):
    """The engine's settings, defaults filled in (`catalog.engines.default_limits`, `default_utilization`)."""

    utilization: Array  # the engine's own fraction in its own meaning
    max_num_seqs: Array
    max_num_batched_tokens: Array
    max_model_len: Array  # tokens; used as a condition to start only where max_model_len_given
    max_model_len_given: Flags = False
    block_tokens: Array | None = None  # None: the engine's default
    enforce_eager: Flags = False
    states_asked: Flags = False  # states are set aside for max_num_seqs sequences, not a share of what is left
    text_alone: Flags = False  # no images are accepted, and none is profiled
    n_ubatch: Array = 512.0  # llama.cpp: tokens of a micro-batch
    flash_attention: Flags = True  # llama.cpp: off, scores of a micro-batch are kept
    cpu_offload_bytes: Array = 0.0  # weights per GPU that stay in host memory
    graph_batch: Array = 512.0  # largest batch captured as a CUDA graph
    placement: NDArray[np.object_] | None = None  # llama.cpp: `placement.Placement` of each row; None: spread evenly
    lora_slots: Array = 0.0  # adapters resident at once
    lora_rank: Array = 0.0
    draft_tokens: Array = 0.0  # drafted per step and sequence


class ReplicaLoad(NamedTuple):
    """What one replica serves at once."""

    input_tokens: Array
    output_tokens: Array
    concurrency: Array = 1.0  # sequences of one replica
    shared_prefix_tokens: Array = 0.0  # of the input, one copy for all live sequences
    written: Array = 0.5  # share of output_tokens that a running sequence has on average; more where lengths vary


class Draft(NamedTuple):
    """A model that drafts tokens on the same GPUs; the last stage of a pipeline holds all of it."""

    model: ModelSpec
    tensor_bytes: Floats  # (T, R), of its own tensors
    kv_k_bytes: Array
    kv_v_bytes: Array
    own_vocabulary: bool = True  # False: embedding and head are those of the model that it drafts for


class MemoryInputs(NamedTuple):
    """One memory plan's rows."""

    tensor_bytes: Floats  # (T, R) or (T,): resident bytes of all copies, in the order of params.tensors(model)
    kv_k_bytes: Array  # bytes per cached key value
    kv_v_bytes: Array  # bytes per cached value
    device: Device
    settings: Settings
    load: ReplicaLoad
    parallel: Parallel = Parallel()
    kv_head_bytes: Array = 0.0  # more bytes per head and token (per-head scales), K and V together
    value_bytes: Array = 2.0  # bytes per activation value
    router_bytes: Array = 0.0  # more bytes per value of a router, which the engine keeps in FP32
    draft: Draft | None = None


def slot_tokens(inputs: MemoryInputs) -> Floats:
    """Context of one sequence's slot: max_model_len where it was given, else what the load needs."""
    needed = floats(inputs.load.input_tokens) + inputs.load.output_tokens
    return np.where(inputs.settings.max_model_len_given, inputs.settings.max_model_len, needed)


class Terms(NamedTuple):
    """Bytes per GPU on the rank that limits the pool."""

    budget_bytes: Floats  # what the engine may take
    weights_bytes: Floats
    kv_pool_bytes: Floats  # what the engine makes its cache of
    recurrent_state_bytes: Floats  # states of the running sequences; in vLLM a part of the pool
    activation_bytes: Floats
    non_torch_bytes: Floats
    cuda_graph_bytes: Floats
    reserved_bytes: Floats  # by others
    load_peak_bytes: Floats  # while weights are read and repacked
    host_bytes: Floats  # in host memory, for all GPUs of a replica: weights, cache and states of what runs there
    free_bytes: Floats  # of the device, once the engine runs and serves the load


class KvCapacity(NamedTuple):
    """What the pool holds. Tokens and blocks are those of one rank, sequences those of one replica."""

    kv_bytes_per_token: Floats  # of one GPU, summed over its layers, windows and padding aside
    kv_needed_bytes: Floats  # of the pool, for the load with every sequence at full length
    kv_occupancy: Floats  # kv_needed / pool; above 1: requests queue; infinite without a pool
    kv_pool_tokens: Floats  # as the engine prints them
    kv_blocks: Floats
    max_concurrency: Floats  # sequences of input + output, whole ones, capped by max_num_seqs
    max_concurrency_at_max_model_len: Floats  # as vLLM prints it, a fraction and not capped
    max_concurrency_expected: Floats  # at the mean length of a running sequence
    max_context_tokens: Floats  # longest input + output at this concurrency


class StartVerdict(NamedTuple):
    """Whether the engine starts and holds the load; does not fit is data."""

    starts: NDArray[np.bool_]
    holds_load: NDArray[np.bool_]
    shortfall_bytes: Floats  # what is missing to start, 0 when it starts
    margin_bytes: Floats  # the least that any condition on the engine's own memory leaves, negative where it lacks
    breaks: NDArray[np.str_]  # the first term that does not fit: see `verdict.BREAKS`; "" when it starts


class MemoryPlan(NamedTuple):
    """The answer, by row."""

    terms: Terms
    kv: KvCapacity
    verdict: StartVerdict
