"""Work that an engine merges: shared experts with routed ones, pools with queries, norms with all-reduces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from planner.arrays import PerRow
from planner.estimate.deployments import Deployment, Part, column, parallel
from planner.estimate.layout import GPUS_PER_NODE
from planner.ops import Batch, Op, norms_within, pools_beside, shared_beside
from planner.specs.engine import EngineSpec, MergedKernels

NORMS = 2  # of a layer, each after an all-reduce: the mixer's and that of the preceding ffn


class Merging(NamedTuple):
    """Scalars or (R,)."""

    shared: PerRow = 0.0  # 1 where shared experts run beside the routed ones in steps that graphs replay
    routed: PerRow = 0.0  # 1 where they are routed experts to every step
    norms: PerRow = 0.0  # of a step, in the kernels of its all-reduces ...
    norm_tokens: PerRow = 0.0  # ... in steps of at most so many tokens
    pool_tokens: PerRow = 0.0  # most tokens of such steps in which compressor and indexer run beside the queries

    def merged(
        self, ops: list[Op], batch: Batch, tokens: PerRow, launched_share: Callable[[Batch], PerRow]
    ) -> list[Op]:
        """The operations of a step as the engine runs them; no graph replays `launched_share` of such steps.

        `tokens`: of the step, drafted ones included.
        """
        if self is APART:
            return ops
        replayed = 1 - launched_share(batch)
        if np.any(self.shared) or np.any(self.routed):
            ops = shared_beside(ops, np.maximum(self.routed, replayed * self.shared))
        if np.any(self.pool_tokens):
            ops = pools_beside(ops, replayed * (tokens <= self.pool_tokens))
        if np.any(self.norms):
            ops = norms_within(ops, np.where(tokens <= self.norm_tokens, self.norms, 0.0))
        return ops


APART = Merging()


def merging(engine: EngineSpec, deployments: Sequence[Deployment]) -> Merging:
    """What is merged in deployments of one model, by GPU and layout."""
    own, model = engine.merged_kernels, deployments[0].row.model
    types = {*own.shared_beside_types, *own.shared_routed_types, *own.norms_within_types}
    if model.model_type not in types and not model.pools_latents:
        return APART
    shared: PerRow = 0.0
    if model.model_type in own.shared_beside_types:
        shared = column(deployments, lambda d: float(d.row.gpu.runs_cuda), Part.GPU)
    routed: PerRow = 0.0
    if model.model_type in own.shared_routed_types:
        routed = column(deployments, lambda d: float(d.row.gpu.generation in own.shared_routed_on), Part.GPU)
    merging = Merging(shared, routed, pool_tokens=_pool_tokens(own, deployments) if model.pools_latents else 0.0)
    if model.model_type not in own.norms_within_types:
        return merging
    fuses = column(deployments, _fuses_norms, Part.GPU, Part.LAYOUT, Part.WORDS)
    norms = fuses * min(NORMS, model.norms_per_layer) * model.n_layers
    return merging._replace(norms=norms, norm_tokens=own.norms_within_tokens)


def _pool_tokens(own: MergedKernels, deployments: Sequence[Deployment]) -> PerRow:
    """Tokens of all attention data-parallel ranks."""

    def most(d: Deployment) -> float:
        more = d.row.gpu.generation in own.pools_beside_more_on
        return d.row.gpu.runs_cuda * (own.pools_beside_more_tokens if more else own.pools_beside_tokens)

    return column(deployments, most, Part.GPU) * parallel(deployments).attention_dp


def _fuses_norms(d: Deployment) -> float:
    """1 where the engine's all-reduces include norms: in a group on one node, on the generations that it names."""
    group = d.layout.tp > 1 and d.layout.defined.attention_dp <= 1
    node = d.row.scenario.gpus_per_node or GPUS_PER_NODE
    return float(group and d.layout.tp <= node and d.row.gpu.generation in d.row.engine.merged_kernels.norms_within_on)
