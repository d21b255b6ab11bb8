"""Exact bytes of every weight tensor in a format, as the checkpoint stores it and as an engine holds it."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.formats.gguf import gguf_tensor_bytes
from planner.formats.packing import Floats, Ints, groups, packed_bytes, padded
from planner.identity import Same
from planner.params import Tensor, tensors
from planner.specs.formats import FormatSpec, Level, Packing
from planner.specs.model import ExactWeights, ModelSpec, Quantization, Role

__all__ = [
    "bits_per_weight",
    "groups",
    "is_quantized",
    "kernel_for",
    "packed_bytes",
    "quantized_layers",
    "tensor_bytes",
    "weight_bytes",
]

HALF_BYTES, FP32_BYTES = 2.0, 4.0  # of a value: fp16 and bf16, fp32
UNPACKED_KERNEL = "gemm-16"  # weights unpacked before use are priced as 16 bit


class Held(NamedTuple):
    """Whether weights are in an engine, and over how many ranks each expert is divided."""

    resident: bool
    expert_shards: int


def _own(model: ModelSpec, fmt: FormatSpec) -> Quantization | None:
    """The checkpoint's own quantization, when `fmt` is what it is stored in."""
    own = model.quantization
    return own if own is not None and own.weight_format == fmt.id else None


def quantized_roles(model: ModelSpec, fmt: FormatSpec) -> frozenset[Role]:
    """Roles that are stored packed: the checkpoint's own choice in its own format, else the recipe's default."""
    own = _own(model, fmt)
    if own is None:
        return frozenset(fmt.quantized_roles)
    mixed = {role for role, _ in own.mixed}
    return (frozenset(own.quantized or fmt.quantized_roles) | mixed) - frozenset(own.roles_16bit)


def mixed_roles(model: ModelSpec, fmt: FormatSpec) -> tuple[tuple[Role, str], ...]:
    """Roles that the checkpoint holds in another format than `fmt`, its main one, and that format's id."""
    own = _own(model, fmt)
    return own.mixed if own else ()


def is_quantized(model: ModelSpec, tensor: Tensor, fmt: FormatSpec) -> bool:
    """Whether the format packs this tensor (in the layers that `quantized_layers` counts)."""
    if fmt.gguf is not None:
        return tensor.k > 1 and tensor.role in fmt.quantized_roles
    if fmt.packing is None or (tensor.k == 1 and not fmt.quantizes_vectors):
        return False
    if fmt.head is not None and tensor.role is Role.LM_HEAD:
        return True
    own = _own(model, fmt)
    return tensor.role in quantized_roles(model, fmt) and not (own and tensor.name in own.tensors_16bit)


def quantized_layers(model: ModelSpec, tensor: Tensor, fmt: FormatSpec) -> int:
    """In how many of its layers (1 outside the stack) a tensor is packed: a checkpoint may leave some whole."""
    if not is_quantized(model, tensor, fmt):
        return 0
    own = _own(model, fmt)
    whole = set(own.layers_16bit) if own else set()
    return sum(layer not in whole for layer in tensor.layers) if tensor.layers else 1


class _Shapes:
    """A model's tensors as columns."""

    def __init__(self, model: ModelSpec) -> None:
        self.all = tensors(model)
        self.n: Ints = np.array([tensor.n for tensor in self.all], dtype=np.int64)
        self.k: Ints = np.array([tensor.k for tensor in self.all], dtype=np.int64)
        self.copies: Ints = np.array([tensor.copies for tensor in self.all], dtype=np.int64)
        self.layers: Ints = np.array([max(len(tensor.layers), 1) for tensor in self.all], dtype=np.int64)
        self.roles = [tensor.role for tensor in self.all]


@lru_cache(maxsize=256)
def _shapes(model: Same[ModelSpec]) -> _Shapes:
    return _Shapes(model.value)


def _head_bytes(head: Packing, shapes: _Shapes, tied: bool) -> Floats:
    """Bytes of an output matrix that is packed otherwise than the rest; a tied one is stored once more."""
    is_head = np.array([role is (Role.EMBEDDING if tied else Role.LM_HEAD) for role in shapes.roles])
    return np.where(is_head & (shapes.k > 1), packed_bytes(head, shapes.n, shapes.k), 0.0)


def _held_shapes(model: ModelSpec, fmt: FormatSpec, shards: int) -> tuple[Ints, Ints]:
    """Output and input features as kernels hold them: experts are padded along both widths.

    A down projection gives the model width and takes the inner one, of which every rank pads its own part.
    """
    shapes = _shapes(Same(model))
    expert = np.array([role is Role.EXPERT for role in shapes.roles]) & (shapes.k > 1)
    down = np.array([tensor.name.endswith("down") for tensor in shapes.all])

    def held(axis: Ints, is_model_width: NDArray[np.bool_]) -> Ints:
        held = np.where(is_model_width, padded(axis, fmt.pad_hidden), padded(axis, fmt.pad_inner, shards))
        return np.where(expert, held, axis)

    return held(shapes.n, down), held(shapes.k, ~down)


def _matrix_bytes(model: ModelSpec, fmt: FormatSpec, packing: Packing, held: Held) -> Floats:
    """Bytes of one packed copy of each tensor; a checkpoint may hold some roles in another format."""
    shapes = _shapes(Same(model))
    n, k = _held_shapes(model, fmt, held.expert_shards) if held.resident else (shapes.n, shapes.k)
    packed = packed_bytes(packing, n, k)
    others = {other.id: other for other in fmt.mixes}
    for role, format_id in mixed_roles(model, fmt):
        if format_id in others:
            other = others[format_id]
            chosen = other.resident if held.resident and other.resident else other.packing
            is_role = np.array([found is role for found in shapes.roles])
            packed = np.where(is_role, packed_bytes(chosen, n, k), packed)
    return packed


def _packed_tensor_bytes(model: ModelSpec, fmt: FormatSpec, held: Held) -> Floats:
    """Packed layers at the packing's bytes, the others at the base type's."""
    shapes = _shapes(Same(model))
    packing = fmt.resident if held.resident and fmt.resident is not None else fmt.packing
    base = (FP32_BYTES if fmt.base_dtype == "fp32" else HALF_BYTES) * shapes.n * shapes.k
    if packing is None:
        return np.asarray(base * shapes.copies * shapes.layers, dtype=np.float64)
    packed_layers = np.array([quantized_layers(model, tensor, fmt) for tensor in shapes.all], dtype=np.int64)
    packed = _matrix_bytes(model, fmt, packing, held)
    per_copy = packed_layers * packed + (shapes.layers - packed_layers) * base
    if fmt.head is not None:
        tied = model.tie_embeddings
        head = _head_bytes(fmt.head, shapes, tied)
        per_copy = np.where(head > 0, head + (per_copy if tied else 0), per_copy)
    return np.asarray(per_copy * shapes.copies, dtype=np.float64)


def _closed_form(model: ModelSpec, fmt: FormatSpec, held: Held) -> Floats:
    return gguf_tensor_bytes(model, fmt.gguf) if fmt.gguf is not None else _packed_tensor_bytes(model, fmt, held)


def _as_stored(model: ModelSpec, exact: ExactWeights) -> Floats:
    """The bytes that the checkpoint's headers state, in the order of `tensors(model)`."""
    stated = {(name, layer): size for name, layer, size in exact.stored}
    keys = [(tensor.name, tensor.layers[0] if tensor.layers else -1) for tensor in tensors(model)]
    return np.array([stated.pop(key, 0) for key in keys], dtype=np.float64)


@lru_cache(maxsize=8192)
def _tensor_bytes(model: Same[ModelSpec], fmt: Same[FormatSpec], held: Held) -> NDArray[np.float64]:
    """The closed form, or what the headers state and of the closed form only what loading changes."""
    found = _closed_form(model.value, fmt.value, held)
    exact = model.value.exact
    if exact is not None and exact.weight_format == fmt.value.id:
        loaded = found - _closed_form(model.value, fmt.value, Held(False, 1)) if held.resident else 0.0
        found = np.maximum(_as_stored(model.value, exact) + loaded, 0.0)
    found.setflags(write=False)
    return found


def tensor_bytes(
    model: ModelSpec, fmt: FormatSpec, resident: bool = False, expert_shards: int = 1
) -> NDArray[np.float64]:
    """Bytes of all copies of each tensor of `planner.params.tensors(model)`, shape (T,), read-only.

    As the checkpoint stores them (to the byte where its headers were read, `ModelSpec.exact`) or, with
    `resident`, as the engine holds them: loaders drop the order index and the zero points of symmetric
    GPTQ, widen scales, and pad experts that `expert_shards` ranks (tp / ep) divide. Padding of the
    vocabulary, replicas and what engines derive at load (absorbed MLA projections) are the business of
    `planner.memory`.
    """
    shards = expert_shards if resident and max(fmt.pad_hidden, fmt.pad_inner) > 1 else 1
    return _tensor_bytes(Same(model), Same(fmt), Held(resident, shards))


def weight_bytes(model: ModelSpec, fmt: FormatSpec, resident: bool = False) -> float:
    """Bytes of all weights together."""
    return float(tensor_bytes(model, fmt, resident).sum())


def bits_per_weight(model: ModelSpec, fmt: FormatSpec) -> float:
    """Mean bits per parameter of the checkpoint, as llama.cpp prints BPW."""
    return 8 * weight_bytes(model, fmt) / sum(tensor.numel for tensor in tensors(model))


def kernel_for(fmt: FormatSpec, level: Level) -> str:
    """The kernel family that runs a format at a level of support.

    Unpacked weights run as 16 bit; where no source says how a GPU runs it, the weight-only family is assumed.
    """
    if level is Level.NATIVE:
        return fmt.kernel
    return UNPACKED_KERNEL if level is Level.EMULATED else fmt.weight_only_kernel
