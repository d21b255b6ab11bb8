"""A model beside the bundled architecture that is most like it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from planner.catalog.hf.config import shown
from planner.params import parameters
from planner.specs.model import ModelSpec

FIELDS = (
    "task hidden_size vocab_size max_position tie_embeddings embedding_size norm norms_per_layer final_norm "
    "embedding_norm lm_head lm_head_bias causal mtp_layers vision"
).split()
_NEAR = 0.35  # of the parameters: a text model beside one with an image encoder, or a vocabulary cut down


class Likeness(NamedTuple):
    """The bundled architecture that differs in least, and in what."""

    id: str
    differences: tuple[tuple[str, str, str], ...]  # (field, here, there)


def nearest(model: ModelSpec, sizes: Iterable[tuple[str, int]], load: Callable[[str], ModelSpec]) -> Likeness | None:
    """The most similar of the bundled models, given as (id, parameters); None when none has as many layers of
    this width."""
    own = parameters(model)
    candidates = (load(name) for name, size in sizes if abs(size - own) <= _NEAR * max(size, own))
    alike = (
        other for other in candidates if (other.hidden_size, other.n_layers) == (model.hidden_size, model.n_layers)
    )
    found = [Likeness(other.id, tuple(_differences(model, other))) for other in alike]
    return min(found, key=lambda likeness: len(likeness.differences), default=None)


def _differences(model: ModelSpec, other: ModelSpec) -> Iterable[tuple[str, str, str]]:
    for field in FIELDS:
        here, there = getattr(model, field), getattr(other, field)
        if here != there:
            yield field, shown(here), shown(there)
    for kind in ("mixer", "ffn"):
        yield from _stack_differences(kind, _by_layer(model, kind), _by_layer(other, kind))
    if _added(model) != _added(other):
        yield "extra tensors", ", ".join(_added(model)) or "none", ", ".join(_added(other)) or "none"


def _added(model: ModelSpec) -> list[str]:
    return sorted(extra.name for extra in model.extras if not extra.name.startswith("vision."))


def _by_layer(model: ModelSpec, kind: str) -> list[dict[str, Any]]:
    """Fields of the mixer or ffn of each layer."""
    kinds = model.mixers if kind == "mixer" else model.ffns
    stack = [getattr(layer, kind) for layer in model.layers for _ in range(layer.count)]
    return [kinds[index].model_dump() if index >= 0 else {"kind": "none"} for index in stack]


def _stack_differences(
    kind: str, here: list[dict[str, Any]], there: list[dict[str, Any]]
) -> Iterable[tuple[str, str, str]]:
    """Each field that differs, once, from the first layer where it does."""
    seen: set[str] = set()
    for layer, (mine, yours) in enumerate(zip(here, there, strict=True)):
        for field in dict.fromkeys((*mine, *yours)):
            if mine.get(field) != yours.get(field) and field not in seen:
                seen.add(field)
                yield f"layer {layer} {kind}.{field}", shown(mine.get(field)), shown(yours.get(field))
