"""Weight tensors of linear attention and of selective state spaces."""

from __future__ import annotations

from planner.params.tensor import Tensor
from planner.specs.model import LinearAttention, Mamba, ModelSpec


def linear_tensors(mixer: LinearAttention, model: ModelSpec, layers: tuple[int, ...]) -> list[Tensor]:
    """Projections, convolution, decay and norm of a LinearAttention."""
    raise NotImplementedError("linear attention")


def mamba_tensors(mixer: Mamba, model: ModelSpec, layers: tuple[int, ...]) -> list[Tensor]:
    """Projections, convolution, decay and norm of a Mamba block."""
    raise NotImplementedError("mamba")
