"""Residuals on a grid: ln(measured / form), trilinear in log2 of m, n and k.

Values are clipped and smoothed; beyond the grid they are held and shrunk.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.specs.calibration import ResidualTable

Array = NDArray[np.float64]

CLIP = 0.4  # of a residual's logarithm
SHRINK = 0.7  # outside of the measured grid
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
    return np.array(nodes)[at]


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
    weights = np.linalg.solve(
        _kernel(known, known) + NOISE * np.eye(len(known)), np.clip(log_ratio, -CLIP, CLIP)
    )
    axes = [axis(values) for values in (m, n, k)]
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    values = tuple(round(float(value), 4) for value in _kernel(nodes, known) @ weights)
    rounded = [tuple(round(float(node), 4) for node in at) for at in axes]
    return ResidualTable(m=rounded[0], n=rounded[1], k=rounded[2], values=values)


def _place(nodes: Array, values: Array) -> tuple[NDArray[np.int64], Array, Array]:
    """Cell, position in it (0..1) and whether the value lies outside of the nodes."""
    x = np.log2(np.maximum(values, 1))
    if len(nodes) == 1:
        return np.zeros(np.shape(x), dtype=np.int64), np.zeros_like(x), np.abs(x - nodes[0]) > APART
    inside = np.clip(x, nodes[0], nodes[-1])
    cell = np.clip(np.searchsorted(nodes, inside, side="right") - 1, 0, len(nodes) - 2)
    return cell, (inside - nodes[cell]) / (nodes[cell + 1] - nodes[cell]), np.abs(x - inside) > APART


def residual(found: ResidualTable, m: Array, n: Array, k: Array) -> Array:
    """Trilinear residual at (m, n, k), held at the edge and shrunk outside of the grid."""
    nodes = [np.array(at) for at in (found.m, found.n, found.k)]
    grid = np.array(found.values).reshape([len(at) for at in nodes])
    places = [_place(at, np.asarray(values, dtype=float)) for at, values in zip(nodes, (m, n, k), strict=True)]
    total = np.zeros(np.broadcast_shapes(*(np.shape(part[0]) for part in places)))
    for corner in np.ndindex(2, 2, 2):
        index = [np.minimum(part[0] + up, len(at) - 1) for part, up, at in zip(places, corner, nodes, strict=True)]
        weight = [part[1] if up else 1 - part[1] for part, up in zip(places, corner, strict=True)]
        total = total + weight[0] * weight[1] * weight[2] * grid[tuple(index)]
    outside = places[0][2] | places[1][2] | places[2][2]
    return np.asarray(np.where(outside, SHRINK, 1.0) * total)
