"""Number formats of the kernels' operands in NumPy: conversion to float64, and random values to measure with.

Values are raw unsigned integers; bf16 as uint16, FP8 and FP4 codes as uint8. Formats: OCP 8-bit floating point
1.0 (E4M3), OCP microscaling 1.0 (E2M1, E8M0), QLoRA (NF4).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Rng = np.random.Generator


def to_bf16(x: Array) -> Array:
    """float -> bf16 bits, to nearest even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def bf16(bits: Array) -> Array:
    return (np.asarray(bits, np.uint32) << 16).view(np.float32).astype(np.float64)


def fp16(bits: Array) -> Array:
    return np.ascontiguousarray(bits, np.uint16).view(np.float16).astype(np.float64)


def _float8(code: Array) -> Array:
    exponent, mantissa = (code >> 3) & 15, code & 7
    size = np.where(exponent > 0, (8 + mantissa) * 2.0 ** (exponent - 10.0), mantissa * 2.0**-9)
    return np.where(code >> 7, -1.0, 1.0) * np.where((code & 127) == 127, np.nan, size)


E4M3_VALUES = _float8(np.arange(256))
E2M1_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
# Quantiles of the normal distribution, 16 levels with an exact zero (QLoRA, arXiv:2305.14314, appendix E).
NF4_VALUES = np.array(
    [-1, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0]
    + [0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1]
)


def e4m3(codes: Array) -> Array:
    return E4M3_VALUES[np.asarray(codes, np.uint8)]


def e2m1(codes: Array) -> Array:
    return E2M1_VALUES[np.asarray(codes, np.uint8)]


def nf4(codes: Array) -> Array:
    return NF4_VALUES[np.asarray(codes, np.uint8)]


def e8m0(codes: Array) -> Array:
    return 2.0 ** (np.asarray(codes, np.float64) - 127)


def int8(codes: Array) -> Array:
    return np.asarray(codes, np.uint8).view(np.int8).astype(np.float64)


def any_bits(rng: Rng, count: int) -> Array:
    """uint8 with every bit random: integer weights."""
    return rng.integers(0, 256, count, dtype=np.uint8)


def any_words(rng: Rng, count: int) -> Array:
    return rng.integers(0, 2**32, count, dtype=np.uint32)


def normal_bf16(rng: Rng, count: int) -> Array:
    return to_bf16(rng.standard_normal(count, np.float32))


def normal_fp16(rng: Rng, count: int) -> Array:
    return rng.standard_normal(count, np.float32).astype(np.float16).view(np.uint16)


def any_e4m3(rng: Rng, count: int) -> Array:
    """uint8, all finite codes."""
    codes = rng.integers(0, 127, count, dtype=np.uint8)
    return codes | (rng.integers(0, 2, count, dtype=np.uint8) << 7)


def normal_e4m3(rng: Rng, count: int) -> Array:
    """uint8, nearest codes of normal values times 8, as a scaled tensor holds them."""
    order = np.argsort(E4M3_VALUES[:127])
    sizes = E4M3_VALUES[:127][order]
    x = 8 * rng.standard_normal(count, np.float32)
    codes: Array = order[np.searchsorted(sizes, np.abs(x)).clip(0, 126)].astype(np.uint8)
    signs: Array = (x < 0).astype(np.uint8) << 7
    return codes | signs


def scale_bf16(rng: Rng, count: int) -> Array:
    return to_bf16(0.001 + 0.02 * rng.random(count, np.float32))


def scale_fp16(rng: Rng, count: int) -> Array:
    return (0.001 + 0.02 * rng.random(count, np.float32)).astype(np.float16).view(np.uint16)


def scale_fp32(rng: Rng, count: int) -> Array:
    return (0.001 + 0.02 * rng.random(count)).astype(np.float32)


def scale_e8m0(rng: Rng, count: int) -> Array:
    return rng.integers(118, 124, count, dtype=np.uint8)


def scale_e4m3(rng: Rng, count: int) -> Array:
    """uint8, positive and normal."""
    return rng.integers(8, 120, count, dtype=np.uint8)


def normal_words(rng: Rng, count: int) -> Array:
    """uint32, two bf16 each."""
    return to_bf16(0.05 * rng.standard_normal(2 * count, np.float32)).view(np.uint32)


def e4m3_words(rng: Rng, count: int) -> Array:
    """uint32, four finite E4M3 codes each."""
    return any_e4m3(rng, 4 * count).view(np.uint32)
