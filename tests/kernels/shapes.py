"""Shapes that kernels are tried at without a GPU: small, odd, at the edges of tiles."""

from __future__ import annotations

from typing import Any

from planner.calibration.kernels.problem import Decode, DeviceLimits, Gemm, Grouped, Kernel, Latent, Nothing, Stream

H200 = DeviceLimits(90, 132, 227 * 1024, 50 * 2**20)
DATACENTER_AMPERE = DeviceLimits(80, 108, 163 * 1024, 40 * 2**20)
ADA = DeviceLimits(89, 142, 99 * 1024, 96 * 2**20)
BLACKWELL_DESKTOP = DeviceLimits(120, 170, 99 * 1024, 96 * 2**20)
DEVICES = (H200, DATACENTER_AMPERE, ADA, BLACKWELL_DESKTOP)

FEW_TOKENS = tuple(Gemm(m, 192 if m % 2 else 256, 384) for m in (1, 5, 8, 9, 16, 17, 32, 33, 64, 70)) + (
    Gemm(3, 64, 1536),  # several splits
)
MANY_TOKENS = (
    Gemm(1, 64, 512),
    Gemm(17, 72, 528),  # nothing fills its tile, the inputs end inside a stage
    Gemm(33, 200, 272),
    Gemm(70, 129, 144),  # an odd number of results in a row
    Gemm(130, 257, 400),
    Gemm(8, 64, 2048),
)
LATENT = (Latent(1, 1, 16), Latent(2, 40, 5), Latent(1, 333, 20))
FILES = tuple(Gemm(m, 72, k) for m, k in ((1, 256), (2, 1280), (3, 2048), (8, 768)))
EXPERTS = (
    Grouped(1, 128, 512, 8, 2),  # most experts idle
    Grouped(9, 192, 256, 4, 2, (0, 17, 1, 0)),
    Grouped(33, 64, 256, 2, 2),
    Grouped(20, 64, 256, 2, 1),
    Grouped(60, 64, 256, 4, 2),
    Grouped(140, 128, 256, 4, 2),
)
CONTEXTS = tuple(
    Decode(seqs, context, heads, kv_heads, dim)
    for dim in (64, 128, 256)
    for seqs, context, heads, kv_heads in ((1, 1, 8, 8), (3, 16, 16, 4), (2, 147, 8, 1), (1, 700, 34, 2))
)


def shapes_of(kernel: Kernel) -> tuple[Any, ...]:
    if kernel.shape is Stream:
        return tuple(Stream(16 * vectors) for vectors in (1, 255, 2048, 5000))
    if kernel.shape is Decode:
        return CONTEXTS
    if kernel.shape is Grouped:
        return EXPERTS
    if kernel.shape is Nothing:
        return (Nothing(),)
    if kernel.shape is Latent:
        return LATENT
    if kernel.source == "gguf.cu":
        return FILES
    return MANY_TOKENS if kernel.source == "gemm.cu" else FEW_TOKENS
