"""Which kernels an engine runs, by generation of GPUs and by type of model, and what they attain.

Fields named `*_types` hold the model_type of configs, fields named `*_on` the generations of GPUs.
"""

from planner.specs.base import Name, Spec
from planner.specs.engine.ranges import Amount, PositiveShare


class ExpertKernels(Spec):
    """Kernels of routed experts where an engine has more than one."""

    # models whose experts run in TensorRT-LLM's kernels (16 bit apart) on these generations, "*" for all of them;
    # all others' in Triton's
    listed_types: tuple[str, ...] = ()
    listed_half_types: tuple[str, ...] = ()
    listed_on: tuple[Name, ...] = ()
    # generations on which inputs of MXFP4 experts are quantized too, but for these models
    mx4_inputs_on: tuple[Name, ...] = ()
    mx4_inputs_except: tuple[str, ...] = ()
    # generations on which MXFP4 experts run in the kernel of any packed weights, but for these models
    mx4_packed_on: tuple[Name, ...] = ()
    mx4_packed_except: tuple[str, ...] = ()


class Routers(Spec):
    """Which routers an engine multiplies in FP32, and which in kernels of its own."""

    full_types: tuple[str, ...] = ()  # models ...
    cast_types: tuple[str, ...] = ()  # ... of which these load the checkpoint's router and cast it in a step ...
    halved_types: tuple[str, ...] = ()  # ... but for these of them ...
    halved_on: tuple[Name, ...] = ()  # ... on these generations, in 16 bit there
    own_on: tuple[Name, ...] = ()  # generations on which kernels of its own take ...
    own_shapes: tuple[str, ...] = ()  # ... experts x inputs in 16 bit ...
    own_tokens: Amount = 0  # ... of at most so many tokens ...
    own_full_shapes: tuple[str, ...] = ()  # ... and the same in FP32
    own_full_tokens: Amount = 0


class UntunedProducts(Spec):
    """Block FP8 products whose shape an engine's kernel has no tiles for: few tiles, each of which walks all inputs."""

    untuned_on: tuple[Name, ...] = ()  # generations
    tuned: tuple[str, ...] = ()  # shapes on one GPU that have tiles of their own: outputs x inputs
    inputs_1024_s: Amount = 0  # more for every 1024 inputs of the others


class MergedKernels(Spec):
    """Work that an engine merges into kernels of other work, or runs beside it."""

    shared_beside_types: tuple[str, ...] = ()  # whose shared experts run beside the routed ones where graphs replay
    shared_routed_types: tuple[str, ...] = ()  # whose shared experts are routed experts of every token ...
    shared_routed_on: tuple[Name, ...] = ()  # ... on these generations
    norms_within_types: tuple[str, ...] = ()  # whose norms run in the kernels of all-reduces ...
    norms_within_on: tuple[Name, ...] = ()  # ... on these generations ...
    norms_within_tokens: Amount = 0  # ... in steps of at most so many tokens
    # tokens of a rank's step to which compressor and indexer of pooled attention run beside its queries ...
    pools_beside_tokens: Amount = 0
    pools_beside_more_tokens: Amount = 0  # ... and to which they do ...
    pools_beside_more_on: tuple[Name, ...] = ()  # ... on these generations


class AttentionKernels(Spec):
    """Kernels of attention where they are not the usual fused ones."""

    shared_heads: Amount = 0  # query heads per cached head that decode attention takes together; 0: any number
    slow_fused: tuple[Name, ...] = ()  # generations whose fused attention does without matrix units
    fused_picks_on: tuple[Name, ...] = ()  # generations whose kernel reads picked latents in 8 bit as they are
    score_traffic_bytes: Amount = 0  # moved per query, key and head where attention is not fused
    sinks_fused_on: tuple[Name, ...] = ()  # whose fused kernels take attention sinks; on NVIDIA's others ...
    sink_prompt_cost: Amount = 1  # ... FLOPs of prompts with them, in those of prompts without
    absorbs: bool = False  # decodes of latent attention run kv_b as two batched products, in 16 bit
    latents_measured: bool = True  # whether runs of latent models, of this version or before, shaped its constants
    # parts of a sequence that the kernel for heads of any width reads side by side; 0: no such kernel
    general_segments: Amount = 0
    general_types: tuple[str, ...] = ()  # models all of whose heads run in it where their wide ones do
    wide_fused_on: tuple[Name, ...] = ()  # generations whose fused kernels take wide heads ...
    wide_fused_cost: Amount = 1  # ... at so many times the FLOPs of narrow ones, for prompts


class UnfusedState(Spec):
    """A delta rule whose state is updated by several kernels for a generated token; 0: by one."""

    kernels: Amount = 0  # more of them ...
    passes: Amount = 0  # ... and more times that they read or write the state


class Attained(Spec):
    """What kernels attain in a model that serves, as a share of what they attain alone."""

    expert_arithmetic: PositiveShare = 1  # of expert kernels
    packed_arithmetic: PositiveShare = 1  # of products of packed weights ...
    unpacks_on: tuple[Name, ...] = ()  # ... on generations where they are unpacked to 16 bit first
    copied_weights: PositiveShare = 1  # of copies from pinned memory, where they are of weights in host memory
