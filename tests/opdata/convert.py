"""Public operator measurements as calibration runs.

    run, held_back = convert(folder, "h200_sxm")

The folder holds extracts of the sources' tables: gemm_<gpu>.csv, attention_<gpu>.csv, moe_<gpu>.csv and comm_all.csv of
ai-dynamo/aiconfigurator@095f58a (Apache-2.0), vidur_linear_a40.csv of microsoft/vidur (MIT), and
llmservingsim_{dense,attention}.csv of casys-kaist/LLMServingSim (MIT), timings inside vLLM 0.19.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from planner import __version__
from planner.catalog.gpus import gpu
from planner.specs.run import AttentionShape, Environment, ExpertShape, GemmShape, Mode, Run, Shape
from tests.opdata.readings import Reading
from tests.opdata.tables import (
    FEATURES,
    PROMPTS,
    attention_readings,
    collective_readings,
    expert_readings,
    gemm_readings,
    small_readings,
)

AIC = "ai-dynamo/aiconfigurator@095f58a (Apache-2.0)"
SOURCES = {"a40": "microsoft/vidur (MIT)", "rtx4090": "casys-kaist/LLMServingSim (MIT), in vLLM 0.19"}
GPUS = {
    "a100_sxm": "a100-80-sxm",
    "l40s": "l40s",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "b200_sxm": "b200",
    "b300_sxm": "b300",
    "gb200": "gb200",
    "rtx_pro_6000_server": "rtxpro6000-server",
    "a40": "a40",
    "rtx4090": "rtx4090",
}
STRAGGLER = 1.25  # times what more rows take
HEADS_OUT = 65536  # rows of a language-model head
TOKENS = (1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 16384)
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXTS = (128, 512, 2048, 8192, 32768, 131072)
HEADS = ((32, 8), (8, 1), (8, 8), (64, 8), (16, 2), (32, 4), (16, 16))
HELD = 3  # every third geometry of experts, and every third matrix of small tables, is held back


def in_gemm_grid(shape: Shape) -> bool:
    """Whether the converted run keeps a product; the others are held back."""
    assert isinstance(shape, GemmShape)
    inside = shape.n in FEATURES or shape.n == HEADS_OUT
    return shape.m in TOKENS and shape.k in FEATURES and inside


def in_attention_grid(shape: Shape) -> bool:
    assert isinstance(shape, AttentionShape)
    lengths = shape.cached in CONTEXTS if shape.new == 1 else shape.new in PROMPTS
    return lengths and shape.sequences in SEQUENCES and (shape.query_heads, shape.kv_heads) in HEADS


def geometry_is_kept(shape: Shape) -> bool:
    """Two of three geometries, all their batches together."""
    assert isinstance(shape, ExpertShape)
    return (shape.hidden // 256 + shape.inner // 128 + shape.experts + shape.active) % HELD != 0


def _is_kept(shape: Shape) -> bool:
    """Two of three matrices, all their batches together; of attention two of three contexts."""
    if isinstance(shape, GemmShape):
        return shape.m in TOKENS and (shape.n // 64 + shape.k // 64) % HELD != 0
    assert isinstance(shape, AttentionShape)
    return round(np.log2(shape.cached)) % HELD != 0


def without_stragglers(found: Sequence[Reading]) -> list[Reading]:
    """The same without products that take much longer than more rows by the same kernel with the same weights.

    The tables scatter by up to two times at small batches (B200, FP8: 44 us for 1 row, 29 us for 64).
    """
    least: dict[tuple[object, ...], float] = {}
    out = []
    for reading in sorted(found, key=_rows, reverse=True):
        if isinstance(reading.shape, GemmShape):
            key = reading.family, reading.kernel, reading.shape.n, reading.shape.k
            least[key] = min(reading.seconds, least.get(key, reading.seconds))
            if reading.seconds > STRAGGLER * least[key]:
                continue
        out.append(reading)
    return out


def _rows(reading: Reading) -> int:
    return reading.shape.m if isinstance(reading.shape, GemmShape) else 0


def readings(folder: Path, name: str) -> list[Reading]:
    """Every trustworthy row of a GPU."""
    card = gpu(GPUS[name])
    if name in SOURCES:
        return list(small_readings(folder, name, card))
    found = [*gemm_readings(folder, name, card), *attention_readings(folder, name, card)]
    return found + [*expert_readings(folder, name, card), *collective_readings(folder, name)]


def _kept(found: Sequence[Reading], name: str) -> list[Reading]:
    keeps = {GemmShape: in_gemm_grid, AttentionShape: in_attention_grid, ExpertShape: geometry_is_kept}
    if name in SOURCES:
        keeps = {GemmShape: _is_kept, AttentionShape: _is_kept}
    return [reading for reading in found if keeps.get(type(reading.shape), lambda shape: True)(reading.shape)]


def as_run(found: Sequence[Reading], name: str) -> Run:
    """Readings as a converted run."""
    card, source = gpu(GPUS[name]), SOURCES.get(name, AIC)
    return Run(
        id=f"{source.split('/')[1].split(' ')[0].split('@')[0].lower()}-{card.id}",
        gpu=card.id,
        created="2026-08-21T00:00:00Z",
        planner_version=__version__,
        mode=Mode.CONVERTED,
        source=source,
        environment=Environment(gpu_name=card.name, device_token="0" * 16),
        points=tuple(reading.point(order) for order, reading in enumerate(found)),
    )


def convert(folder: str | Path, name: str) -> tuple[Run, list[Reading]]:
    """The run of a GPU's grid without stragglers, and the readings that it holds back, as they are."""
    everything = readings(Path(folder), name)
    kept = _kept(everything, name)
    held = {id(reading) for reading in kept}
    return as_run(without_stragglers(kept), name), [reading for reading in everything if id(reading) not in held]
