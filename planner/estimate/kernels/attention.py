"""Which kernels attention runs in: fused ones that keep scores on chip, or products that write and read scores."""

from __future__ import annotations

from collections.abc import Sequence

from planner.arrays import PerRow
from planner.catalog.efficiency import window_costs
from planner.catalog.kernel_families import MATRIX_UNITS, UNFUSED, VECTOR_UNITS
from planner.estimate.deployments import Deployment, Part, column
from planner.ops import FUSED_ONLY, FUSED_SCORES, GeneralKernel, Scores
from planner.ops.attention import is_wide
from planner.specs.engine import EngineSpec
from planner.specs.gpu import GpuSpec

UNPACKED, FUSED_PICKS = "attention-gather-8", "attention-gather-8-fused"


def is_fused(d: Deployment) -> bool:
    """Whether attention keeps its scores on chip: as the scenario says, else as the version does."""
    stated = d.row.scenario.flash_attention
    return d.row.engine.defaults.flash_attention if stated is None else stated


def prompt_attention(d: Deployment) -> str:
    """The kernels that run the attention of prompts, as families of kernels name them."""
    if not is_fused(d):
        return UNFUSED
    return VECTOR_UNITS if d.row.gpu.generation in d.row.engine.attention_kernels.slow_fused else MATRIX_UNITS


def picked_attention(engine: EngineSpec, gpu: GpuSpec, family: str) -> str:
    """The family of sparse attention over prompts: `family`, or one that reads 8-bit keys without unpacking them."""
    fused = family == UNPACKED and gpu.generation in engine.attention_kernels.fused_picks_on
    return FUSED_PICKS if fused else family


def scores(deployments: Sequence[Deployment]) -> Scores:
    """Bytes that the scores of attention move where it is not fused."""
    traffic = deployments[0].row.engine.attention_kernels.score_traffic_bytes
    if not traffic:
        return FUSED_SCORES
    moved = column(deployments, lambda d: 0.0 if is_fused(d) else traffic, Part.WORDS)
    return Scores(moved, column(deployments, lambda d: d.row.gpu.l2_bytes or 0.0, Part.GPU))


def sink_cost(engine: EngineSpec, deployments: Sequence[Deployment]) -> PerRow:
    """Cost of a prompt's FLOPs in layers with attention sinks, relative to layers without, (R,)."""
    kernels = engine.attention_kernels
    if kernels.sink_prompt_cost == 1:
        return 1.0

    def cost(d: Deployment) -> float:
        general = d.row.gpu.runs_cuda and d.row.gpu.generation not in kernels.sinks_fused_on
        return kernels.sink_prompt_cost if general else 1.0

    return column(deployments, cost, Part.GPU)


def general_kernel(engine: EngineSpec, deployments: Sequence[Deployment]) -> GeneralKernel:
    """The kernel for heads that are wider than fused kernels take, and the rows that run it."""
    kernels, model = engine.attention_kernels, deployments[0].row.model
    if not kernels.general_segments or not any(is_wide(mixer) for mixer in model.mixers):
        return FUSED_ONLY
    wide = column(deployments, lambda d: d.row.gpu.generation not in kernels.wide_fused_on, Part.GPU, dtype=bool)
    return GeneralKernel(
        wide=wide,
        narrow=wide & (model.model_type in kernels.general_types),
        segments=kernels.general_segments,
        blocks=column(deployments, lambda d: d.row.gpu.sm_count or 0.0, Part.GPU),
        window_cost=column(deployments, lambda d: window_costs(d.row.gpu, d.row.engine.kernels)[0], Part.GPU),
        masked_cost=column(deployments, lambda d: window_costs(d.row.gpu, d.row.engine.kernels)[1], Part.GPU),
        fused_cost=kernels.wide_fused_cost,
    )
