"""Which routers an engine multiplies in FP32, and in which kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from planner.catalog.efficiency import vector_tiles
from planner.catalog.kernel_families import FULL
from planner.estimate.deployments import Deployment, Part, column
from planner.ops import FullRouter
from planner.specs.engine import EngineSpec
from planner.specs.gpu import GpuSpec
from planner.specs.model import ModelSpec, MoeFfn


def is_full(engine: EngineSpec, model: ModelSpec, gpu: GpuSpec) -> bool:
    """Whether the engine multiplies the model's router in FP32 on this GPU."""
    own = engine.routers
    halved = model.model_type in own.halved_types and gpu.generation in own.halved_on
    return model.model_type in own.full_types and not halved


def router_family(engine: EngineSpec, model: ModelSpec, gpu: GpuSpec, family: str) -> str:
    """The family of a model's router, `family` by its format."""
    return FULL if is_full(engine, model, gpu) else family


def full_router(engine: EngineSpec, deployments: Sequence[Deployment]) -> FullRouter | None:
    """How deployments of one model multiply its router; None where all do in 16 bit."""
    own, model = engine.routers, deployments[0].row.model
    if model.model_type not in own.full_types:
        return None
    shapes = {f"{ffn.n_experts}x{model.hidden_size}" for ffn in model.ffns if isinstance(ffn, MoeFfn)}
    kernel = shapes <= set(own.own_shapes)

    def of_gpu(value: Any) -> Any:
        return column(deployments, value, Part.GPU)

    return FullRouter(
        full=column(deployments, lambda d: is_full(engine, model, d.row.gpu), Part.GPU, dtype=bool),
        multiprocessors=of_gpu(lambda d: (d.row.gpu.sm_count or 0.0) * (d.row.gpu.vendor == "NVIDIA")),
        lone_outputs=vector_tiles().lone,
        few_outputs=vector_tiles().few,
        many_outputs=of_gpu(lambda d: vector_tiles().of_many(d.row.gpu.generation)),
        few=vector_tiles().few_rows,
        own=of_gpu(lambda d: own.own_tokens * (kernel and d.row.gpu.generation in own.own_on)),
    )
