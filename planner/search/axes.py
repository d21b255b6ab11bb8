"""The axes of a search space with what is usual for empty ones: models, GPUs, engines, formats, layouts, loads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from planner.catalog import engines, formats, gpus, models
from planner.catalog.checkpoints import checkpoint
from planner.catalog.efficiency import is_half_rate
from planner.catalog.quality import family
from planner.estimate.defaults import own_format, usual_engine
from planner.estimate.layout import Layout, fault
from planner.estimate.library import Library
from planner.formats import bits_per_weight
from planner.identity import Same
from planner.search.usual import usual_formats
from planner.specs.engine import EngineSpec
from planner.specs.gpu import GpuSpec
from planner.specs.model import ModelSpec
from planner.specs.scenario import Scenario
from planner.specs.wish import Space
from planner.units import GB

USUAL_TPS = (1, 2, 4, 8)
LEAST_RENTED_GB = 24  # memory from which a rented card is tried unasked
LLAMA_CPP = "llama.cpp"
ROUNDING = 1.1  # scales and padding in which formats of the same bits differ


class Sizing(NamedTuple):
    """Requests at once, and GPUs or replicas that take them.

    None: the load's own concurrency, or users or rate; as many GPUs and replicas as it needs.
    """

    concurrency: int | None
    gpus: int | None = None
    replicas: int | None = None


def chosen_models(load: Scenario, space: Space) -> tuple[str, ...]:
    """Models to try: those named, else the load's own, else all of the catalogue that generate text."""
    if space.models or load.model:
        return space.models or (load.model or "",)
    return tuple(entry.id for entry in models.model_index() if entry.task == "generate")


def chosen_gpus(load: Scenario, space: Space) -> tuple[str, ...]:
    """GPUs to try: those named, else the load's own, else those that are rented at a known price and hold a model."""
    if space.gpus or load.gpu:
        return space.gpus or (load.gpu or "",)
    specs = map(gpus.gpu, gpus.gpu_ids())
    return tuple(gpu.id for gpu in specs if gpu.price and gpu.label_bytes >= LEAST_RENTED_GB * GB)


def chosen_engines(load: Scenario, space: Space, gpu: GpuSpec) -> tuple[str, ...]:
    """Engines to try on a GPU: those named, else the GPU's usual one, and llama.cpp beside it on hardware that people
    have at home or where the load states host memory to use."""
    named = space.engines or ((load.engine,) if load.engine else ())
    if named:
        return tuple(engines.engine_id(name) for name in named)
    usual = usual_engine(gpu)
    at_home = gpu.unified_memory or is_half_rate(gpu) or bool(load.host_memory_gib)
    return (usual, LLAMA_CPP) if at_home and usual != LLAMA_CPP else (usual,)


def chosen_formats(model: ModelSpec, space: Space, engine: EngineSpec, gpu: GpuSpec) -> tuple[str, ...]:
    """Weight formats to try: those named and worth making of this checkpoint, else the usual ones of the engine."""
    named = tuple(formats.weight_format(name).id for name in space.formats)
    return named or usual_formats(model, engine.id, gpu)


@lru_cache(maxsize=2**16)
def _unfit(model: Same[ModelSpec], format_id: str) -> str:
    spec, fmt = model.value, formats.weight_format(format_id)
    own = formats.weight_format(own_format(spec))
    if fmt.id == own.id:
        return ""
    if bits_per_weight(spec, fmt) > bits_per_weight(spec, own) * ROUNDING:
        return f"released in {own.name}: more bits would add nothing"
    made = checkpoint(spec, fmt)
    if made.rstrip().rstrip(":") == f"quantize {spec.id}":
        return f"nobody makes {fmt.name}"
    at_load = made.startswith(f"{spec.id}, ")
    return f"{fmt.name} is made at load, from 16-bit weights only" if at_load and spec.quantization else ""


def unfit(model: ModelSpec, format_id: str) -> str:
    """Why nobody would use the model in this format: more bits than released, or no tool makes it; else blank."""
    return _unfit(Same(model), format_id)


def divisions(model: ModelSpec, engine: EngineSpec, space: Space, load: Scenario, most: int) -> list[Layout]:
    """Layouts of one replica on at most `most` GPUs; invalid ones carry their reason."""
    tps = space.tps or ((load.tp,) if load.tp else tuple(n for n in USUAL_TPS if n <= most))
    pps = space.pps or (load.pp or 1,)
    ranks = product(space.eps or (load.ep or 1,), space.attention_dps or (load.attention_dp or 1,))
    found: dict[Layout, None] = {}
    for (ep, attention_dp), tp, pp in product(ranks, tps, pps):
        split = (1, tp * pp) if engine.division.by_layers and load.split_mode != "row" else (tp, pp)
        one = Layout(*split, ep, attention_dp, dp=1)
        found[one._replace(invalid=fault(model, engine, one) or _cannot_start(model, engine, one))] = None
    return list(found)


def _cannot_start(model: ModelSpec, engine: EngineSpec, layout: Layout) -> str:
    """Divisions for which an engine has no flags, although they could be priced."""
    tp, _, ep, attention_dp = layout[:4]
    if attention_dp > 1 and not model.has_experts:
        return "attention data-parallel is for models with experts; replicas do the same for others"
    if engine.division.whole_ep and ep not in (1, tp):
        return f"{engine.name} divides experts over all of tp {tp} or not at all"
    if engine.division.whole_attention_dp and attention_dp not in (1, tp):
        return f"{engine.name} runs attention data-parallel on all of tp {tp} or not at all"
    return ""


def loads(load: Scenario, space: Space) -> list[Sizing]:
    """Every concurrency under every count of GPUs or replicas."""
    asked: Sequence[int | None] = space.concurrencies or (None,)
    return list(_loads(asked, space, load))


def _loads(asked: Sequence[int | None], space: Space, load: Scenario) -> Iterator[Sizing]:
    counts = space.counts or ((load.n_gpus,) if load.n_gpus else ())
    replicas = space.replicas or ((load.dp,) if load.dp else ())
    for concurrency in asked:
        for number in counts:
            yield Sizing(concurrency, gpus=number)
        for number in replicas if not counts else ():
            yield Sizing(concurrency, replicas=number)
        if not (counts or replicas):
            yield Sizing(concurrency)


def most_gpus(load: Scenario, space: Space, limit: int) -> int:
    """Most GPUs of one replica, so that every count that was asked for can be made up."""
    counts = space.counts or ((load.n_gpus,) if load.n_gpus else ())
    return int(min(max(counts, default=math.inf), limit))


def check(load: Scenario, space: Space, library: Library) -> None:
    """Raises UnknownName for a task, a model, a GPU, an engine or a format that nobody knows."""
    for name in chosen_models(load, space) if space.models or load.model else ():
        library.model(name)
    family(load.task_family)
    for name in chosen_gpus(load, space):
        library.gpu(name)
    for name in space.engines:
        engines.engine_id(name)
    for name in space.formats:
        formats.weight_format(name)
    for name in space.kv_formats:
        formats.kv_format(name)
