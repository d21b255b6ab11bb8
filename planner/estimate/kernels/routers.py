"""Kernels that multiply routers: in 16 bit as other products, in FP32, or an engine's own for few tokens."""

from __future__ import annotations

from collections.abc import Sequence

from planner.catalog.efficiency import tiles_of_many, vector_tiles
from planner.catalog.kernel_families import FULL
from planner.estimate.deployments import Deployment, Part, column
from planner.formats import FP32_BYTES, HALF_BYTES
from planner.ops import RouterKernels, VectorTiles
from planner.specs.engine import EngineSpec
from planner.specs.gpu import GpuSpec
from planner.specs.model import ModelSpec, MoeFfn


def is_full(engine: EngineSpec, model: ModelSpec, gpu: GpuSpec) -> bool:
    """Whether the engine multiplies the model's router in FP32 on this GPU."""
    own = engine.routers
    halved = model.model_type in own.halved_types and gpu.generation in own.halved_on
    return model.model_type in own.full_types and not halved


def router_bytes(d: Deployment) -> float:
    """Bytes that a value of a router takes when weights are loaded, beyond the checkpoint's."""
    model, own = d.row.model, d.row.engine.routers
    loaded = is_full(d.row.engine, model, d.row.gpu) and model.model_type not in own.cast_types
    return (FP32_BYTES - HALF_BYTES) * (loaded and d.row.weights.base_dtype != "fp32")


def router_family(engine: EngineSpec, model: ModelSpec, gpu: GpuSpec, family: str) -> str:
    """The kernel family of a model's router; `family` is that of its format."""
    return FULL if is_full(engine, model, gpu) else family


def _own_tokens(d: Deployment) -> float:
    """Most tokens for which the engine has a kernel of its own for this router; 0 where it has none."""
    own, model, gpu = d.row.engine.routers, d.row.model, d.row.gpu
    full = is_full(d.row.engine, model, gpu)
    shapes = {f"{ffn.n_experts}x{model.hidden_size}" for ffn in model.ffns if isinstance(ffn, MoeFfn)}
    known = own.own_full_shapes if full else own.own_shapes
    if gpu.generation not in own.own_on or not shapes <= set(known):
        return 0.0
    return own.own_full_tokens if full else own.own_tokens


def router_kernels(engine: EngineSpec, deployments: Sequence[Deployment]) -> RouterKernels | None:
    """The kernels of the router in deployments of one model; None where it is a plain product in 16 bit."""
    model = deployments[0].row.model
    if not model.has_experts:
        return None
    own = column(deployments, _own_tokens, Part.GPU)
    if model.model_type not in engine.routers.full_types and not own.any():
        return None
    tiles = vector_tiles()
    return RouterKernels(
        full=column(deployments, lambda d: is_full(engine, model, d.row.gpu), Part.GPU, dtype=bool),
        tiles=VectorTiles(
            multiprocessors=column(deployments, lambda d: (d.row.gpu.sm_count or 0.0) * d.row.gpu.runs_cuda, Part.GPU),
            lone_outputs=tiles.lone,
            few_outputs=tiles.few,
            many_outputs=column(deployments, lambda d: tiles_of_many(d.row.gpu.generation), Part.GPU),
            few=tiles.few_rows,
        ),
        own=own,
    )
