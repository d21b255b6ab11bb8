"""The kernel family of every slot of a forward pass, by weight format, KV format and kind of attention."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from planner.catalog.efficiency import GENERAL_PROMPTS, efficiency
from planner.catalog.rates import COLLECTIVES, HOST_SLOTS
from planner.formats import is_quantized
from planner.identity import Same
from planner.ops import Slot
from planner.ops.products import slot_of
from planner.params import tensors
from planner.specs.formats import FormatSpec, KvFormatSpec
from planner.specs.model import Attention, CompressedAttention, ModelSpec, Role

PLAIN, FULL = "gemm-16", "gemm-32"
BRAIN = "gemm-bf16"  # of engines whose kernels tell BF16 from FP16
LATENT = "attention-decode-latent"
# Families that no public tables time apart, and which stands in for each.
STAND_INS = {LATENT: "attention-decode-16", "wo-mx4": "wo-4", "wo-nv4": "wo-4"}
# Families of prompts' attention: one kernel on matrix units or without them, or products with the scores between them.
MATRIX_UNITS, VECTOR_UNITS, UNFUSED = "16", "vector", "plain"
EIGHT_BIT = 0.8  # bytes per cached value from which a KV format counts as 8 bit
SIXTEEN_BIT = 1.5  # likewise as 16 bit

Beside = tuple[tuple[Role, str], ...]  # the family of each role in another format than the checkpoint's main one


class Attending(NamedTuple):
    """What an engine runs attention in.

    `shared_heads`: query heads per cached head for which decode attention runs on matrix units; 0: any number.
    `prompts`: MATRIX_UNITS or VECTOR_UNITS, which keep the scores of prompts on chip, or UNFUSED.
    """

    shared_heads: float = 0
    prompts: str = MATRIX_UNITS


def _by_role(model: ModelSpec, fmt: FormatSpec, kernel: str, beside: Beside) -> dict[Slot, str]:
    """The family of each class of weights: the one that runs most of its values, or that of the base type."""
    base = FULL if fmt.base_dtype == "fp32" else BRAIN if fmt.kernel == BRAIN else PLAIN
    own = dict(beside)
    values: dict[Slot, dict[str, float]] = {}
    for tensor in tensors(model):
        if tensor.op and tensor.role is not Role.MTP:
            slot = slot_of(tensor)
            family = own.get(tensor.role, kernel) if is_quantized(model, tensor, fmt) else base
            found = values.setdefault(slot, {base: 0.0})
            found[family] = found.get(family, 0.0) + tensor.numel
    return {slot: max(found, key=found.__getitem__) for slot, found in values.items()}


@lru_cache(maxsize=4096)
def _families(
    model: Same[ModelSpec],
    fmt: Same[FormatSpec],
    kernel: str,
    kv_bytes: float,
    attending: Attending,
    beside: Beside,
) -> tuple[str, ...]:
    slots = dict.fromkeys(Slot, PLAIN) | _by_role(model.value, fmt.value, kernel, beside)
    own = efficiency()["expert_kernels"].get(fmt.value.id) if slots[Slot.EXPERT_GEMM] == kernel else None
    dense = slots[Slot.EXPERT_GEMM]
    slots[Slot.EXPERT_GEMM] = own or efficiency()["expert_families"].get(dense, f"moe-{dense}")
    width = "16" if kv_bytes >= SIXTEEN_BIT else "8" if kv_bytes >= EIGHT_BIT else "4"
    latent = width == "16" and model.value.has_latents and not model.value.picks_latents
    fused = attending.prompts == MATRIX_UNITS
    shared = fused and _shares_reads(model.value, attending.shared_heads)
    slots[Slot.DECODE] = LATENT if fused and latent else f"attention-decode-{width if shared else 'plain'}"
    slots[Slot.PREFILL] = f"attention-prefill-{attending.prompts}"
    slots[Slot.GATHER] = f"attention-gather-{'16' if kv_bytes >= SIXTEEN_BIT else '8'}"
    if any(isinstance(mixer, CompressedAttention) for mixer in model.value.mixers):
        slots[Slot.GATHER] = "attention-gather-pooled"
    slots |= {Slot.GENERAL_PREFILL: GENERAL_PROMPTS, Slot.GENERAL_DECODE: "attention-decode-general"}
    slots |= {Slot.RECURRENT: "recurrent", Slot.ELEMENTWISE: "elementwise", Slot.FEW_ROUTER: "router"}
    for slot in (*COLLECTIVES, *HOST_SLOTS):
        slots[slot] = slot.name.lower()
    return tuple(slots[slot] for slot in Slot)


def _shares_reads(model: ModelSpec, shared_heads: float) -> bool:
    """Whether query heads share a cached head's kernel, which there may be for one number of them only."""
    groups = {mixer.n_heads // mixer.n_kv_heads for mixer in model.mixers if isinstance(mixer, Attention)}
    return not shared_heads or groups <= {1, shared_heads}


def kernel_families(
    model: ModelSpec,
    fmt: FormatSpec,
    kernel: str,
    kv_format: KvFormatSpec,
    attending: Attending = Attending(),  # noqa: B008
    beside: Beside = (),
) -> tuple[str, ...]:
    """Kernel family per slot. `kernel`: what runs the format on this GPU (`formats.kernel_for`).

    `beside`: what runs the roles that a checkpoint holds in other formats (`formats.mixed_roles`).
    """
    return _families(Same(model), Same(fmt), kernel, kv_format.bytes_per_value, attending, beside)
