"""How long the host launches the kernels of a step that no CUDA graph replays, or replays in pieces only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from planner.catalog.host import launch_share
from planner.catalog.rates import RateSet
from planner.estimate.deployments import Deployment, Part, column, numbers
from planner.estimate.kernels.experts import product_family, routes_inside
from planner.formats.identity import distinct
from planner.ops import Slot
from planner.specs.engine import EngineSpec
from planner.specs.model import CompressedAttention, LinearAttention, Mamba, Mixer, ModelSpec, MoeFfn

# Kernels whose inputs are quantized first, and the bytes of a value then, scales included.
QUANTIZED = {"gemm-fp8": 1.0, "gemm-fp8-block": 1.03125, "gemm-int8": 1.0, "gemm-fp4": 0.5625}


class Launches(NamedTuple):
    """Seconds of the host for all layers of a step; scalars or (R,)."""

    decode_s: Any  # kernel by kernel, without prompts
    whole_s: Any  # the same with prompts
    pieces_s: Any  # between the pieces of a step with prompts that graphs replay
    piece_tokens: Any  # most tokens of a step that they replay; 0: of none
    between_s: Any  # for what whole graphs leave out

    def prompt_s(self, prompt_tokens: Any) -> Any:
        """For a step with so many tokens of prompts."""
        return np.where(prompt_tokens <= self.piece_tokens, self.pieces_s, self.whole_s)


NO_LAUNCHES = Launches(0.0, 0.0, 0.0, 0.0, 0.0)


def launches(engine: EngineSpec, deployments: Sequence[Deployment], kernels: Sequence[RateSet]) -> Launches:
    """The launches of deployments of one model, whose products run in these kernels; a mixer alone is half a layer."""
    own, model = engine.launches, deployments[0].row.model
    scale = launch_scale(deployments)
    layers = sum(layer.count * ((layer.mixer >= 0) + (layer.ffn >= 0)) / 2 for layer in model.layers)
    more_s = sum(_more_s(engine, mixer) * model.mixer_layers(index) for index, mixer in enumerate(model.mixers))
    kinds, at = distinct(kernels)
    quantized_s = own.quantized_layer_s * np.array([_quantizes(rates) for rates in kinds])[at] * layers
    one = np.array([rates.families[Slot.EXPERT_GEMM] in own.one_kernel_experts for rates in kinds])[at]
    experts_s = own.expert_layer_s * _expert_layers(model) * _launches_experts(deployments, one)
    whole_s = own.layer_s * layers + more_s + experts_s
    decode_s = whole_s if own.decode_layer_s is None else own.decode_layer_s * layers
    return Launches(
        decode_s=scale * decode_s,
        whole_s=scale * (whole_s + quantized_s),
        pieces_s=scale * engine.pieces.layer_s * layers,
        piece_tokens=piece_tokens(engine, deployments),
        between_s=scale * more_s,
    )


def launch_scale(deployments: Sequence[Deployment]) -> Any:
    """Time of a launch on the hosts of each GPU's boards, relative to the hosts that engines were fitted on, (R,)."""
    return column(deployments, lambda d: launch_share(d.row.gpu.id), Part.GPU)


def _quantizes(rates: RateSet) -> bool:
    """Whether the products of attention or of experts quantize their inputs."""
    experts = product_family(rates.families[Slot.EXPERT_GEMM])
    return experts in QUANTIZED or rates.families[Slot.ATTENTION_GEMM] in QUANTIZED


def _expert_layers(model: ModelSpec) -> int:
    return sum(model.ffn_layers(index) for index, ffn in enumerate(model.ffns) if isinstance(ffn, MoeFfn))


def _launches_experts(deployments: Sequence[Deployment], one: Any) -> Any:
    """Rows whose experts are sorted, multiplied and summed kernel by kernel, not in one, (R,). AMD's are in one.

    `one`: rows whose experts multiply in a kernel that some GPUs have in one.
    """
    own = deployments[0].row.engine.launches
    cuda, fuses = (
        column(deployments, has, Part.GPU, dtype=bool)
        for has in (lambda d: d.row.gpu.runs_cuda, lambda d: d.row.gpu.generation in own.one_kernel_on)
    )
    return cuda & ~(fuses & one)


def _more_s(engine: EngineSpec, mixer: Mixer) -> float:
    """Seconds that the launches of a layer take beyond those of grouped-query attention."""
    own, recurs = engine.launches, isinstance(mixer, LinearAttention | Mamba)
    return own.recurrent_layer_s * recurs + own.picking_layer_s * _picks(mixer)


def piece_tokens(engine: EngineSpec, deployments: Sequence[Deployment]) -> Any:
    """Most tokens of a step with prompts that graphs replay in pieces, (R,)."""
    pieces = engine.pieces
    if not pieces.replayed:
        return 0.0
    limit = pieces.latent_tokens if deployments[0].row.model.has_latents else None
    reasons = [_EXCEPT[name] for name in pieces.never_with if name in _EXCEPT]
    parts = (Part.GPU, Part.LAYOUT, Part.WEIGHTS)
    launched = column(deployments, lambda d: any(reason(d) for reason in reasons), *parts, dtype=bool)
    if "adapters" in pieces.never_with:
        launched = launched | (numbers(deployments, "max_loras", 0) > 0)
    return np.where(launched, 0.0, np.inf if limit is None else limit)


def _picks(mixer: Mixer) -> bool:
    return isinstance(mixer, CompressedAttention) or getattr(mixer, "indexer", None) is not None


# Why an engine replays no pieces of prompts, by the names that its file uses; rows of a group share model and drafter.
_EXCEPT: Mapping[str, Callable[[Deployment], bool]] = {
    "vendor": lambda d: not d.row.gpu.runs_cuda,
    "images": lambda d: d.row.model.vision is not None and _unlisted(d),
    "types": lambda d: d.row.model.model_type in d.row.engine.pieces.never_types,
    "picks": lambda d: any(_picks(mixer) for mixer in d.row.model.mixers),
    "latent": lambda d: d.row.model.has_latents,
    "ranks": lambda d: d.layout.defined.attention_dp > 1,
    "stages": lambda d: d.layout.pp > 1,
    "drafts": lambda d: d.row.draft is not None,
    "routing": lambda d: routes_inside(d.row.engine, d.row.model, d.row.gpu, d.row.weights),
}


def _unlisted(d: Deployment) -> bool:
    return d.row.model.model_type not in d.row.engine.pieces.image_types
