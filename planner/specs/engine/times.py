"""Fixed times of an engine, seconds: what its host and its launches add to the work of the GPU."""

from planner.specs.base import Name, Spec
from planner.specs.engine.ranges import Amount, Ratio, Tokens


class HostTimes(Spec):
    """The host's work for a step: scheduling, sampling, preparing the next one."""

    step_s: Amount = 0  # per step, while the GPU waits ...
    sequence_s: Amount = 0  # ... and per running sequence of it
    rank_s: Amount = 0  # per step and further GPU of a tensor-parallel group, in steps of ...
    rank_sequences: Ratio = 1  # ... at least so many sequences, in smaller ones by their share
    state_step_s: Amount = 0  # more per step where prefixes of recurrent states are cached ...
    state_sequence_s: Amount = 0  # ... and per running sequence of it
    beside_sequence_s: Amount = 0  # per running sequence and step, while the GPU works
    # the same per stage of a pipeline, whose micro-batches one process plans, and whose results each stage waits for
    stage_sequence_s: Amount = 0


class LaunchTimes(Spec):
    """The host's work for steps that no CUDA graph replays: it launches their kernels one after another."""

    start_factor: Ratio = 1  # start-up of launched kernels over that of replayed ones
    step_s: Amount = 0  # to prepare such a step ...
    layer_s: Amount = 0  # ... and to launch the kernels of a layer ...
    decode_layer_s: Amount | None = None  # ... of any layer in a step without prompts; None: as with prompts
    recurrent_layer_s: Amount = 0  # more for a layer with a recurrent state ...
    picking_layer_s: Amount = 0  # ... for one whose tokens pick the keys that they attend to ...
    # in steps without prompts, by which a layer takes longer where graphs leave its latent attention out, ...
    latents_apart_s: Amount = 0
    latents_inside_on: tuple[Name, ...] = ()  # ... as they do but on these generations
    quantized_layer_s: Amount = 0  # ... with prompts, for one whose products quantize their inputs ...
    expert_layer_s: Amount = 0  # ... and for one whose experts take several kernels ...
    one_kernel_experts: tuple[str, ...] = ()  # ... but for these kernel families ...
    one_kernel_on: tuple[Name, ...] = ()  # ... on these generations
    # how far a prompt's launches hide behind its kernels, an exponent: some layers last longer on the host; 0: wholly
    prompts_hide: Amount = 0


class Routing(Spec):
    """How tokens reach their experts, and the fixed times of a layer of experts."""

    tokens_gathered: bool = False  # by all attention-DP ranks for their experts; false: sent where they are routed
    tokens_summed: bool = False  # gathered unquantized, in steps with prompts by all-reduces
    router_s: Amount = 0  # per layer for choosing experts in kernels of its own, where CUDA runs
    unfused_router_s: Amount = 0  # ... the same of models that correct the choice by a bias ...
    unfused_router_types: tuple[str, ...] = ("*",)  # ... of these (model_type, "*": all) ...
    fused_router_types: tuple[str, ...] = ()  # ... but for these, whose choice is one kernel, ...
    fused_router_powers: bool = False  # ... and those with a power of two of experts, ...
    fused_router_experts: Amount | None = None  # ... at most so many, ...
    fused_router_top_k: Amount | None = None  # ... of which a token takes at most so many, but for ...
    fused_router_never: tuple[str, ...] = ()  # ... these, which choose a shared expert along
    expert_s: Amount = 0  # per expert and layer where CUDA hosts start them one after another
    row_s: Amount = 0  # per layer, token and expert chosen, where CUDA hosts sort them
    cpu_product_s: Amount = 0  # per product of experts that the CPU runs: the GPU's graph ends before and starts after


class FrontEnd(Spec):
    """What a server does for a request outside of steps: HTTP, tokenizer, detokenizer."""

    request_s: Amount = 0  # per request, before its first token ...
    prompt_token_s: Amount = 0  # ... per token of its prompt, beside other prompts ...
    tokenizer_token_s: Amount = 0  # ... the same, one prompt after another ...
    latent_layer_s: Amount = 0  # ... and per layer with latent attention
    # requests are taken one after another, and their tokens are sent one after another, beside each other
    serial_request_s: Amount = 0
    serial_token_s: Amount = 0
    stream_interval: Tokens = 1  # tokens of a request that are sent at once
