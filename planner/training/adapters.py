"""What a run trains: LoRA matrices beside the frozen ones, copies of embedding and head, or everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from planner.params import Tensor, tensors
from planner.specs.model import ModelSpec, Role

NOT_TRAINED = (Role.MTP,)
TABLES = (Role.EMBEDDING, Role.LM_HEAD)


class Targets(NamedTuple):
    """Which matrices carry an adapter: whole roles, single tensors, and operations that share one adapter."""

    roles: frozenset[Role] = frozenset()
    names: frozenset[str] = frozenset()
    fused: frozenset[str] = frozenset()


class Adapted(NamedTuple):
    """Matrices behind one LoRA pair: together n output features from k input features, `copies` times."""

    n: int
    k: int
    copies: int
    active: float  # of them that one token passes, over all layers


def carries_adapter(tensor: Tensor, targets: Targets) -> bool:
    """Whether a tensor is a matrix that the targets name. Image encoders stay frozen."""
    named = tensor.role in targets.roles or tensor.name in targets.names or tensor.op in targets.fused
    return named and tensor.k > 1 and tensor.role not in (Role.VISION, Role.MTP, Role.BIAS, Role.SMALL)


def is_fused(tensor: Tensor, targets: Targets) -> bool:
    """Whether its adapter covers the whole operation: projections of state-space layers are one module."""
    return bool(tensor.op) and (tensor.op in targets.fused or tensor.role is Role.SSM)


def adapted(model: ModelSpec, targets: Targets) -> tuple[Adapted, ...]:
    """The matrices that adapters stand beside, fused ones merged."""
    merged: dict[tuple[object, ...], Adapted] = {}
    for index, tensor in enumerate(t for t in tensors(model) if carries_adapter(t, targets)):
        key = (tensor.op, tensor.layers) if is_fused(tensor, targets) else (index,)
        layers = max(len(tensor.layers), 1)
        before = merged.get(key, Adapted(0, tensor.k, tensor.matrices, tensor.active * layers))
        merged[key] = before._replace(n=before.n + tensor.n)
    return tuple(merged.values())


def adapter_parameters(model: ModelSpec, targets: Targets, rank: int) -> int:
    """Parameters of all LoRA pairs: rank x (n + k) each. Ref: LoRA paper (arXiv:2106.09685) section 4."""
    return sum(rank * (pair.n + pair.k) * pair.copies for pair in adapted(model, targets))


def adapter_input_values(model: ModelSpec, targets: Targets) -> float:
    """Input values that the adapters of an average layer read for one token."""
    return sum(pair.k * pair.active for pair in adapted(model, targets)) / model.n_layers


def table_parameters(model: ModelSpec) -> int:
    """Parameters of embedding and head, a tied one once."""
    return _count(model, lambda tensor: tensor.role in TABLES)


def head_parameters(model: ModelSpec) -> int:
    """Parameters of the matrix that gives the logits; 0 for an encoder."""
    tied = Role.EMBEDDING if model.tie_embeddings else Role.LM_HEAD
    return _count(model, lambda tensor: tensor.role is tied) if model.lm_head else 0


def trained_parameters(model: ModelSpec) -> int:
    """Parameters that full fine-tuning updates."""
    return _count(model, lambda tensor: tensor.role not in NOT_TRAINED)


def largest_matrix(model: ModelSpec) -> int:
    """Values of the largest single matrix of a layer, an expert's counted alone."""
    return max((t.n * t.k for t in tensors(model) if t.layers), default=0)


def largest_tensor(model: ModelSpec) -> int:
    """Values of the largest parameter as a framework holds it: experts of a layer apart, tables whole."""
    return max(tensor.n * tensor.k for tensor in tensors(model))


def layer_parameters(model: ModelSpec) -> int:
    """Parameters of the largest layer."""
    sizes = [0] * model.n_layers
    for tensor in tensors(model):
        for layer in tensor.layers:
            sizes[layer] += tensor.n * tensor.k * tensor.copies
    return max(sizes)


def factored_values(model: ModelSpec, targets: Targets | None, rank: int) -> int:
    """Rows plus columns of everything trained, which is what Adafactor keeps. `targets` None: full fine-tuning."""
    if targets is not None:
        return sum((2 * rank + pair.n + pair.k) * pair.copies for pair in adapted(model, targets))
    return sum((t.n + t.k) * t.matrices for t in tensors(model) if t.role not in NOT_TRAINED)


def _count(model: ModelSpec, wanted: Callable[[Tensor], bool]) -> int:
    return sum(tensor.numel for tensor in tensors(model) if wanted(tensor))
