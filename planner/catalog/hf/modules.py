"""Modules of a checkpoint that our tensors stand for, and the patterns by which checkpoints exclude them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import product

from planner.catalog.hf.config import shown
from planner.errors import BadValue
from planner.params import Tensor
from planner.specs.model import Role

MAX_PATTERNS = 65536
_MAX_GLOBS = 256
_PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.", "backbone.")
_ATTENTION = ("self_attn", "attention", "attn", "mixer")
_MLPS = ("mlp", "feed_forward", "ffn", "mixer", "block_sparse_moe")
# Names of a module below its parent, by our tensor's name.
_LEAVES = {
    "attention.q": ("q_proj", "qkv_proj", "wqkv"),
    "attention.k": ("k_proj", "qkv_proj", "wqkv"),
    "attention.v": ("v_proj", "qkv_proj", "wqkv"),
    "attention.o": ("o_proj", "wo"),
    "attention.gate": ("g_proj", "gate_proj"),
    "attention.q_a": ("q_a_proj", "wq_a"),
    "attention.q_b": ("q_b_proj", "q_proj", "wq_b"),
    "attention.kv_a": ("kv_a_proj_with_mqa", "wkv"),
    "attention.kv_b": ("kv_b_proj",),
    "indexer.q": ("indexer.wq_b", "index_q_proj", "indexer.q_proj"),
    "indexer.k": ("indexer.wk", "index_k_proj", "indexer.k_proj"),
    "indexer.weights": ("indexer.weights_proj", "indexers_proj"),
    "mlp.gate": ("gate_proj", "gate_up_proj", "w1"),
    "mlp.up": ("up_proj", "gate_up_proj", "w3"),
    "mlp.down": ("down_proj", "w2"),
    "experts.gate": ("experts.gate_proj", "experts.0.gate_proj", "experts.0.w1", "experts"),
    "experts.up": ("experts.up_proj", "experts.0.up_proj", "experts.0.w3", "experts"),
    "experts.down": ("experts.down_proj", "experts.0.down_proj", "experts.0.w2", "experts"),
    "shared.router": ("shared_expert_gate",),
    "moe.router": ("gate", "router", "router.proj"),
    "moe.latent_down": ("fc1_latent_proj",),
    "moe.latent_up": ("fc2_latent_proj",),
    "linear.q": ("in_proj_qkv", "in_proj_qkvz", "q_proj"),
    "linear.k": ("in_proj_qkv", "in_proj_qkvz", "k_proj"),
    "linear.v": ("in_proj_qkv", "in_proj_qkvz", "v_proj"),
    "linear.gate": ("in_proj_z", "in_proj_qkvz", "g_proj"),
    "linear.out": ("out_proj", "o_proj"),
    "linear.beta": ("in_proj_b", "in_proj_ba"),
    "linear.decay": ("in_proj_a", "in_proj_ba"),
    "mamba.out": ("out_proj",),
}
_SHARED = ("shared_experts", "shared_expert", "shared_mlp")
_VISION = ("visual", "vision_tower", "vision_model", "multi_modal_projector", "mm_projector", "embed_vision")


def module_names(tensor: Tensor, layer: int, beside: bool = False) -> list[str]:
    """Names under which checkpoints know the module of `tensor` in `layer` (-1: outside the stack).

    `beside`: the experts stand beside an MLP (Gemma 4), not inside it.
    """
    if tensor.role is Role.VISION:
        return list(_VISION)
    if layer < 0:
        outer = {"lm_head": ["lm_head", "head"], "embedding": ["embed_tokens", "embeddings", "embed"]}
        return outer.get(tensor.name, [tensor.name])
    if beside and tensor.role in (Role.EXPERT, Role.ROUTER):
        return [f"layers.{layer}.{name}" for name in _LEAVES[tensor.name]]
    return [f"layers.{layer}.{name}" for name in _inner_names(tensor)]


def _inner_names(tensor: Tensor) -> list[str]:
    group, _, leaf = tensor.name.partition(".")
    leaves = _LEAVES.get(tensor.name, (leaf,))
    if group == "shared" and tensor.name != "shared.router":
        inner = [f"{name}.{part}" for name in _SHARED for part in _LEAVES[f"mlp.{leaf}"]]
        return [f"{parent}.{name}" for parent in _MLPS for name in inner]
    if group in ("attention", "indexer"):
        parents: tuple[str, ...] = _ATTENTION
    elif group == "linear":
        parents = ("linear_attn", "self_attn", "mixer")
    elif group == "mamba":
        parents, leaves = ("mixer", "mamba"), _LEAVES.get(tensor.name, ("in_proj",))
    else:
        parents = _MLPS if group != "moe" else (*_MLPS, "")
    return [f"{parent}.{name}".lstrip(".") for parent in parents for name in leaves]


def _without_prefix(name: str) -> str:
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name[len(prefix) :]
    return name


class Exclusions:
    """Patterns for modules: exact names (which cover what lies below them), single words, globs, and the
    part of regular expressions that compressed-tensors uses. Matching takes no backtracking."""

    def __init__(self, patterns: Sequence[str], where: str) -> None:
        self.exact: set[str] = set()
        self.words: set[str] = set()
        self.globs: set[str] = set()
        for pattern in patterns:
            for glob in _globs(pattern, where):
                self._add(glob)
            if len(self.globs) > _MAX_GLOBS:
                raise BadValue(f"{where}: more than {_MAX_GLOBS} different wildcard patterns of excluded modules")

    def _add(self, glob: str) -> None:
        plain = _without_prefix(re.sub(r"\.?\*+$", "", glob))
        if "*" in plain:
            self.globs |= {plain, f"{plain}.*"}
        elif "." in plain:
            self.exact.add(plain.removesuffix(".weight"))
        elif plain:
            self.words.add(plain)

    def cover(self, names: Sequence[str]) -> bool:
        """Whether a pattern covers the module that has one of these names."""
        return any(self._covers(name) for name in names)

    def _covers(self, name: str) -> bool:
        parts = name.split(".")
        if not self.words.isdisjoint(parts):
            return True
        if any(".".join(parts[:end]) in self.exact for end in range(1, len(parts) + 1)):
            return True
        return any(fnmatchcase(name, glob) for glob in self.globs)


def _globs(pattern: str, where: str) -> list[str]:
    """A pattern as globs: a regular expression (`re:`) of names, dots, `.*` and alternatives is spelled out."""
    if len(pattern) > 300:
        raise BadValue(f"{where}: an excluded module's pattern of {len(pattern)} characters, more than 300")
    if not pattern.startswith("re:"):
        return [pattern]
    text = pattern[3:].lstrip("^").rstrip("$")
    pieces = re.findall(r"\((?:\?:)?([\w.\\|-]+)\)|(\.\*|\\d\+|\[0-9\]\+)|(\\\.|\.)|([\w-]+)", text)
    rebuilt = re.sub(r"\((?:\?:)?[\w.\\|-]+\)|\.\*|\\d\+|\[0-9\]\+|\\\.|\.|[\w-]+", "", text)
    if rebuilt:
        raise BadValue(f"{where}: excludes {shown(pattern)}, a regular expression that is not known here")
    choices = [
        group.replace("\\.", ".").split("|") if group else ["*" if star else word or "."]
        for group, star, _, word in pieces
    ]
    if sum(len(choice) > 1 for choice in choices) > 3 or max((len(choice) for choice in choices), default=1) > 16:
        raise BadValue(f"{where}: excludes {shown(pattern)}, too many alternatives")
    return ["".join(parts) for parts in product(*choices)]
