"""Residuals on a grid: ln(measured / form), trilinear in log2 of m, n and k.

Values are clipped and smoothed; `roofline.table_residual` reads them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.specs.calibration import ResidualTable

Array = NDArray[np.float64]

CLIP = 0.4  # of a residual's logarithm
LENGTH = 2.0  # octaves over which residuals resemble each other
NOISE = 0.5  # variance of one shape alone, of the variance that neighbours share; both chosen on public tables
MOST_NODES = 24
APART = 0.2  # octaves that make two nodes


def axis(values: Array) -> Array:
    """Nodes in log2: the distinct values, thinned where they crowd."""
    nodes: list[float] = []
    for value in np.unique(np.log2(np.maximum(values, 1))):
        if not nodes or value - nodes[-1] >= APART:
            nodes.append(float(value))
    at = np.unique(np.linspace(0, len(nodes) - 1, min(len(nodes), MOST_NODES)).round().astype(int))
    return np.asarray(np.array(nodes)[at])


def _kernel(x: Array, y: Array) -> Array:
    """Likeness of two shapes: exp(-distance / LENGTH), distances in octaves of m, n and k."""
    squares = np.sum((x[:, None, :] - y[None, :, :]) ** 2, axis=-1)
    return np.asarray(np.exp(-np.sqrt(squares) / LENGTH))


def _octaves(m: Array, n: Array, k: Array) -> Array:
    return np.log2(np.maximum(np.stack([m, n, k], axis=-1), 1))


def table(m: Array, n: Array, k: Array, log_ratio: Array) -> ResidualTable:
    """Smoothed residuals at the nodes of the samples' own grid: a Gaussian process whose noise is NOISE.

    What neighbouring shapes share is kept, what one shape has alone (which kernel the library picked) is
    halved, and far from every sample the residual goes to 0. Samples need not fill the grid.
    """
    known = _octaves(m, n, k)
    weights = np.linalg.solve(_kernel(known, known) + NOISE * np.eye(len(known)), np.clip(log_ratio, -CLIP, CLIP))
    axes = [axis(values) for values in (m, n, k)]
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    values = tuple(round(float(value), 4) for value in _kernel(nodes, known) @ weights)
    rounded = [tuple(round(float(node), 4) for node in at) for at in axes]
    return ResidualTable(m=rounded[0], n=rounded[1], k=rounded[2], values=values)
