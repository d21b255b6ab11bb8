"""Stored bytes by tensor of an architecture: the exact weights of a checkpoint."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from planner.catalog.headers.names import SKIPPED, VISION, Alternatives, Names, place
from planner.catalog.headers.records import Stored
from planner.params import Tensor, tensors
from planner.specs.model import ExactWeights, ModelSpec, Role

Key = tuple[str, int]  # a tensor's name in `params.tensors`, its first layer or -1
UNPLACED = "stored"  # prefix of extra tensors that stand for what the architecture does not know
MAX_SIZE = 2**26  # of an axis in a spec
MAX_UNPLACED = 64  # distinct shapes of these


class Placement(NamedTuple):
    """Where the bytes of a checkpoint belong."""

    stored: dict[Key, int]
    mtp_bytes: int
    unloaded_bytes: int
    unplaced: tuple[Stored, ...]  # loaded, but nothing that the architecture implies
    missing: tuple[str, ...]  # matrices of the architecture that no file holds


class _Held:
    """An architecture's tensors by layer and name."""

    def __init__(self, model: ModelSpec) -> None:
        self.all = tensors(model)
        self.by_place: dict[int, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
        for tensor in self.all:
            for layer in tensor.layers or (-1,):
                self.by_place[layer][tensor.name].append(tensor)
        self.vision = [tensor for tensor in self.all if tensor.role is Role.VISION]
        self.tied = model.tie_embeddings or not model.lm_head
        self.n_layers = model.n_layers

    def meant(self, layer: int, names: Alternatives) -> list[Tensor]:
        """The tensors of this layer that the first alternative with any of them names."""
        here = self.by_place.get(layer, {})
        found = ([tensor for name in group for tensor in here.get(name, ())] for group in names)
        return next((tensors for tensors in found if tensors), [])


def key_of(tensor: Tensor) -> Key:
    """The key of a tensor in `ExactWeights.stored`."""
    return tensor.name, tensor.layers[0] if tensor.layers else -1


def placed(model: ModelSpec, stored: Iterable[Stored], gguf: bool, where: str) -> Placement:
    """The bytes of every stored tensor at the tensors that it stands for; fused ones divided by their sizes."""
    held, names = _Held(model), Names(gguf, where)
    sums: Counter[Key] = Counter()
    mtp = unloaded = 0
    unplaced: list[Stored] = []
    for item in stored:
        at = place(item.name, gguf)
        seen = not gguf and VISION.match(item.name) is not None
        if names.speculative(item.name) or (at.layer >= held.n_layers and not seen):
            mtp += item.stored_bytes
            continue
        targets = names.targets(at)
        meant = held.vision if seen else held.meant(at.layer, targets)
        if meant:
            _share(sums, _of_size(item, meant) if gguf else meant, item.stored_bytes)
        elif targets == SKIPPED or (targets[-1:] == (("lm_head",),) and held.tied):
            unloaded += item.stored_bytes
        else:
            unplaced.append(item)
    missing = [t.name for t in held.all if t.k > 1 and not sums[key_of(t)] and t.role is not Role.VISION]
    return Placement(dict(sums), mtp, unloaded, tuple(unplaced), tuple(dict.fromkeys(missing)))


def _of_size(item: Stored, meant: list[Tensor]) -> list[Tensor]:
    """An ffn_up may hold the gate as well: where it has the size of the first tensor alone, it is that one."""
    first = meant[0]
    return meant[:1] if item.values == first.n * first.k * first.copies else meant


def _share(sums: Counter[Key], meant: Sequence[Tensor], size: int) -> None:
    """Add the bytes in proportion to the tensors' values, to the byte."""
    weights = [tensor.n * tensor.k * tensor.copies for tensor in meant]
    total, given, seen = sum(weights), 0, 0
    for tensor, weight in zip(meant, weights, strict=True):
        seen += weight
        share = size * seen // total - given
        sums[key_of(tensor)] += share
        given += share


def with_exact(model: ModelSpec, weight_format: str, placement: Placement) -> ModelSpec:
    """The architecture with a checkpoint's bytes; what it does not imply stands beside it as extra tensors."""
    extras, sizes = _extras(placement.unplaced)
    stored = [(name, layer, size) for (name, layer), size in placement.stored.items()]
    stored += [(str(extra["name"]), -1, size) for extra, size in zip(extras, sizes, strict=True)]
    exact = ExactWeights(
        weight_format=weight_format,
        stored=tuple(stored),
        mtp_bytes=placement.mtp_bytes,
        unloaded_bytes=placement.unloaded_bytes,
    )
    own = [extra.model_dump() for extra in model.extras]
    update = {"extras": own + extras, "exact": exact.model_dump()}
    return ModelSpec.model_validate(model.model_dump() | update)


def _extras(unplaced: Sequence[Stored]) -> tuple[list[dict[str, object]], list[int]]:
    """One extra tensor per distinct shape with its bytes; past MAX_UNPLACED shapes the rest counts as bytes."""
    groups: dict[tuple[int, int], list[Stored]] = defaultdict(list)
    for item in unplaced:
        groups[_matrix(item)].append(item)
    largest = sorted(groups.items(), key=lambda pair: -sum(item.stored_bytes for item in pair[1]))
    rest = [item for _, items in largest[MAX_UNPLACED:] for item in items]
    extras: list[dict[str, object]] = []
    sizes: list[int] = []
    for (n, k), items in largest[:MAX_UNPLACED]:
        extras.append(_extra(len(extras), n, k, len(items)))
        sizes.append(sum(item.stored_bytes for item in items))
    if rest:
        sizes[-1] += sum(item.stored_bytes for item in rest)
    return extras, sizes


def _extra(index: int, n: int, k: int, copies: int) -> dict[str, object]:
    return {"name": f"{UNPLACED}.{index}", "role": "other", "n": n, "k": k, "copies": copies}


def _matrix(item: Stored) -> tuple[int, int]:
    """[n, k] of a tensor whose leading dimensions count as output features."""
    k = item.shape[-1] if len(item.shape) > 1 else 1
    return min(max(item.values // max(k, 1), 1), MAX_SIZE), min(max(k, 1), MAX_SIZE)
