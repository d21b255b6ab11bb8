"""A fine-tuning run, and the constants of what runs it: frameworks, optimizers, losses.

The columns of a run are those of `planner finetune`; None means the framework's default.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from planner.specs.base import Name, Sourced, Spec
from planner.specs.model import Role
from planner.specs.scenario import Gib, GpuCount, Text, says

Tokens = Annotated[int, Field(ge=1, le=2**24)]
Sequences = Annotated[int, Field(ge=1, le=2**16)]
Steps = Annotated[int, Field(ge=1, le=2**16)]
Rank = Annotated[int, Field(ge=1, le=2**14)]
Factor = Annotated[float, Field(ge=0, le=64)]

Method = Literal["full", "lora", "qlora"]
Sharding = Literal["none", "ddp", "zero1", "zero2", "zero3", "fsdp"]
Precision = Literal["bf16", "master", "autocast", "fp32"]
Checkpointing = Literal["none", "full", "offloaded"]


class FinetuneScenario(Spec):
    """One fine-tuning run. Memory is asked per GPU; every GPU runs its own micro-batch."""

    name: Text | None = says("a label of your own, repeated in the answer")
    model: Text | None = says("bundled id, one of its aliases, or a path (config.json, checkpoint folder)")
    method: Method | None = says("full, lora or qlora (a quantized frozen base under LoRA); blank: lora")
    weight_format: Text | None = says("how the frozen base is stored; blank: bnb-nf4-dq under qlora, else 16 bit")
    framework: Text | None = says("transformers (also TRL, PEFT, DeepSpeed), unsloth or torchtune; blank: transformers")
    framework_version: Text | None = says("its version, such as 2025.9.1; blank: the newest known")
    gpu: Text | None = says("profile id, name as the driver reports it, MIG slice or a profile file")
    n_gpus: GpuCount | None = says("GPUs that train together; blank: 1")
    device_gib: Annotated[float, Field(gt=0, le=1e6)] | None = says("total that cudaMemGetInfo reports, GiB")
    reserved_gib: Gib | None = says("memory that others hold on each card, GiB")
    sharding: Sharding | None = says("none, ddp, zero1, zero2, zero3 or fsdp; blank: none on one GPU, else zero2")
    lora_rank: Rank | None = says("rank of the adapters; blank: 16")
    lora_targets: Text | None = says(
        "attention, mlp, experts, ssm, all-linear or module names (q_proj,v_proj); blank: all-linear"
    )
    train_embeddings: bool | None = says("adapters aside, train embedding and head in full (modules_to_save)")
    batch_size: Sequences | None = says("sequences of one micro-batch on one GPU; blank: 1")
    seq_len: Tokens | None = says("tokens of one sequence after padding or packing; blank: 2048")
    grad_accum: Steps | None = says("micro-batches of one optimizer step; blank: 1")
    optimizer: Text | None = says("adamw, adamw-8bit, paged-adamw-8bit, adafactor, lion, sgd, ...; blank: by framework")
    precision: Precision | None = says(
        "of what is trained: bf16 (all 16 bit), master (16 bit and an fp32 master), autocast (fp32, cast for use), fp32"
    )
    gradient_checkpointing: Checkpointing | None = says("none, full or offloaded (to the host); blank: by framework")
    flash_attention: bool | None = says("attention without a score matrix; blank: yes")
    loss: Text | None = says("how logits are kept: fp32, 16-bit, in-place, chunked, fused-linear; blank: by framework")
    compile: bool | None = says("torch.compile fuses what a layer saves; blank: no")
    optimizer_in_backward: bool | None = says("step each parameter as its gradient arrives; blank: no")
    offload_optimizer: bool | None = says("optimizer states and master weights in host memory; blank: no")


class Widths(Spec):
    """Bytes of one trained parameter by what holds it."""

    parameter: Factor
    gradient: Factor
    master: Factor  # sharded as the optimizer's states are
    state: Factor  # of one optimizer state
    cast: Factor  # 16-bit copy that autocast keeps for the step
    source: str


class Optimizer(Spec):
    """An optimizer's memory: states per parameter, and what its step needs for a moment."""

    id: Name
    names: tuple[str, ...] = ()  # other names of the same, as frameworks spell them
    states: Factor  # tensors of the parameter's shape
    factored: bool = False  # one state per row and per column of a matrix instead
    state_bytes: Factor = 0  # of one value of one state; 0: as the precision says
    temporaries: Factor = 0  # copies of the trained parameters, in the state's width, while it steps
    paged: bool = False  # states may move to the host under pressure
    source: str


class Loss(Spec):
    """Memory of the head and the loss at their peak, per token: bytes x vocabulary + bytes x hidden size."""

    id: Name
    logit_bytes: Factor
    hidden_bytes: Factor = 0
    head_gradients: Factor = 0  # 16-bit copies of a trained head's gradient beside the remaining logits
    target_bytes: Sourced | None = None  # logits are cut into chunks of at most this,
    target_share: Factor = 1  # or of this share of what is free,
    target_logit_bytes: Factor = 0  # each logit counted as this many bytes
    chunks_in: Annotated[int, Field(ge=1, le=64)] = 1  # number of chunks is a multiple of this
    source: str
    kind: str


class Layer(Spec):
    """What a layer keeps for its backward pass, in values of the compute type unless the name says bytes."""

    norm_bytes: Factor  # per norm and hidden value: its input, upcast, normalised and scaled
    inner_copies: Factor  # per inner value of a gated MLP
    plain_inner_copies: Factor  # the same without a gate
    adapter_inputs: Factor  # copies of its input that an adapter keeps
    source: str
    kind: str


class EarlierLoss(Spec):
    """How a framework kept logits in versions before `before`."""

    before: Name
    loss: Name
    source: str


class Framework(Spec):
    """What trains, and how it does so unless told otherwise."""

    id: Name
    name: Name
    aliases: tuple[str, ...] = ()
    layer: Layer
    compiled: Layer
    adapter_precision: Precision
    full_precision: Precision
    optimizer: Name
    loss: Name
    earlier_losses: tuple[EarlierLoss, ...] = ()  # oldest first
    gradient_checkpointing: Checkpointing
    upcasts_frozen: bool = False  # QLoRA: what is not quantized is held in fp32
    load_bytes: Sourced  # reserved after loading beyond the tensors themselves
    fragmentation: Sourced  # reserved over allocated, minus one
    interval: Sourced  # half-width of the 80 % interval of the peak, relative
    source: str


class Shared(Spec):
    """Constants of PyTorch and of the sharding libraries."""

    context_bytes: Sourced  # CUDA context, libraries, cuBLAS workspaces: outside PyTorch's allocator
    group_bytes: Sourced  # buffers of the collectives, from two GPUs on
    bucket_values: Sourced  # gradients that ZeRO-1 and -2 collect before they reduce them
    live_values: Sourced  # parameters that ZeRO-3 keeps gathered
    step_values: Sourced  # parameters that ZeRO-3 steps at once
    score_bytes: Sourced  # per pair of tokens and head where attention keeps its scores
    backward_inner: Sourced  # gradients of inner values alive at once in a layer's backward pass
    backward_hidden: Sourced  # gradients of hidden values alive at once
    offload_layers: Sourced  # layer inputs on the GPU while the others are on the host


class FinetuneConstants(Spec):
    """Everything in planner/data/finetune.yaml."""

    frameworks: tuple[Framework, ...]
    optimizers: tuple[Optimizer, ...]
    losses: tuple[Loss, ...]
    precisions: dict[Precision, Widths]
    targets: dict[str, tuple[str, ...]]  # module name -> names of tensors
    groups: dict[str, tuple[Role, ...]]  # attention, mlp, ... -> roles
    fused: dict[str, tuple[str, ...]]  # module name -> operations whose matrices one adapter covers
    shared: Shared
