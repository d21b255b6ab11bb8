"""Bytes of matrices whose values are packed in groups that share scales and zero points."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from planner.specs.formats import Packing

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Size = TypeVar("Size", int, Ints)

BITS_PER_BYTE = 8


def _groups(size: Ints, group: int) -> Ints:
    """Groups along an axis; a group of 0 spans the axis, a last one that is not full counts."""
    return -(-size // group) if group else np.ones_like(size)


def padded(size: Size, multiple: int, parts: int = 1) -> Size:
    """Size of an axis each of whose `parts` is padded to a multiple."""
    part = -(-size // parts)
    return -(-part // multiple) * multiple * parts if multiple > 1 else size


def groups(packing: Packing, n: Ints, k: Ints) -> Ints:
    """Groups of one [n, k] matrix that hold a scale each."""
    if packing.flat:
        return _groups(n * k, packing.group_k)
    return _groups(n, packing.group_n) * _groups(k, packing.group_k)


def packed_bytes(packing: Packing, n: Ints, k: Ints) -> Floats:
    """Bytes of one matrix [n, k]: codes, scales and zero points per group, vectors along both axes.

    Ref: the layouts of AutoGPTQ, AutoAWQ, compressed-tensors, bitsandbytes, torchao (sources in the data file).
    """
    scales = groups(packing, n, k)
    nested = _groups(scales, packing.nested_group) * packing.nested_bits
    vectors = n * packing.row_bits + k * packing.column_bits
    bits = n * k * packing.bits + scales * (packing.scale_bits + packing.zero_bits) + nested + vectors
    return np.asarray(bits / BITS_PER_BYTE + packing.tensor_bytes, dtype=np.float64)
