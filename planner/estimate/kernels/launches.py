"""How long the host takes to launch the kernels of a step.

A CUDA graph replays a whole step with one launch. Without one the host launches every kernel; some engines replay a
step with prompts in pieces and launch only the attention between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from planner.arrays import PerRow
from planner.catalog.host import launch_share
from planner.catalog.rates import RateSet
from planner.estimate.deployments import Deployment, Part, column, numbers
from planner.estimate.kernels.experts import product_family, routes_inside
from planner.identity import distinct
from planner.ops import Slot
from planner.specs.engine import EngineSpec
from planner.specs.model import CompressedAttention, LatentAttention, LinearAttention, Mamba, Mixer, ModelSpec, MoeFfn

# Kernels whose inputs are quantized first, and the bytes of a value then, scales included.
QUANTIZED = {"gemm-fp8": 1.0, "gemm-fp8-block": 1.03125, "gemm-int8": 1.0, "gemm-fp4": 0.5625}


class Launches(NamedTuple):
    """Host seconds per step, all layers together; scalars or (R,)."""

    decode_s: PerRow  # to launch every kernel of a step that only decodes ...
    whole_s: PerRow  # ... and of one with prompts
    pieces_s: PerRow  # to launch what lies between the pieces that graphs replay of a step with prompts
    piece_tokens: PerRow  # most prompt tokens of a step that is replayed in pieces; 0: none is
    between_s: PerRow  # to launch what graphs of whole steps leave out
    apart_s: PerRow = 0.0  # by which a step that only decodes takes longer as graphs leave its latent attention out

    def prompt_s(self, prompt_tokens: PerRow) -> PerRow:
        """To launch a step with `prompt_tokens`, in pieces where the engine has graphs of that size."""
        return np.where(prompt_tokens <= self.piece_tokens, self.pieces_s, self.whole_s)


def launches(engine: EngineSpec, deployments: Sequence[Deployment], kernels: Sequence[RateSet]) -> Launches:
    """The launches of deployments of one model, whose products run in these kernels.

    A mixer or an ffn that stands alone counts as half a layer.
    """
    own, model = engine.launches, deployments[0].row.model
    scale = launch_scale(deployments)
    layers = sum(layer.count * ((layer.mixer >= 0) + (layer.ffn >= 0)) / 2 for layer in model.layers)
    more_s = sum(_more_s(engine, mixer) * model.mixer_layers(index) for index, mixer in enumerate(model.mixers))
    kinds, at = distinct(kernels)
    quantizes = np.array([_quantizes(rates) for rates in kinds])[at]
    fusable = np.array([rates.families[Slot.EXPERT_GEMM] in own.one_kernel_experts for rates in kinds])[at]
    quantized_s = own.quantized_layer_s * layers * quantizes
    experts_s = own.expert_layer_s * _expert_layers(model) * _launches_experts(deployments, fusable)
    whole_s = own.layer_s * layers + more_s + experts_s
    decode_s = whole_s if own.decode_layer_s is None else own.decode_layer_s * layers
    return Launches(
        decode_s=scale * decode_s,
        whole_s=scale * (whole_s + quantized_s),
        pieces_s=scale * engine.pieces.layer_s * layers,
        piece_tokens=piece_tokens(engine, deployments),
        between_s=scale * more_s,
        apart_s=scale * own.latents_apart_s * _apart_layers(model) * _leaves_latents_out(deployments),
    )


def launch_scale(deployments: Sequence[Deployment]) -> PerRow:
    """Time of a launch on the hosts of each GPU's boards, relative to the hosts that engines were fitted on, (R,)."""
    return column(deployments, lambda d: launch_share(d.row.gpu.id), Part.GPU)


def _quantizes(rates: RateSet) -> bool:
    """Whether the products of attention or of experts quantize their inputs."""
    experts = product_family(rates.families[Slot.EXPERT_GEMM])
    return experts in QUANTIZED or rates.families[Slot.ATTENTION_GEMM] in QUANTIZED


def _expert_layers(model: ModelSpec) -> int:
    return sum(model.ffn_layers(index) for index, ffn in enumerate(model.ffns) if isinstance(ffn, MoeFfn))


def _launches_experts(deployments: Sequence[Deployment], fusable: PerRow) -> PerRow:
    """Rows whose experts are sorted, multiplied and summed in several kernels, (R,); without CUDA it is one kernel.

    `fusable`: rows whose experts run in a family that some generations have as one kernel.
    """
    fusing = deployments[0].row.engine.launches.one_kernel_on
    cuda = column(deployments, lambda d: d.row.gpu.runs_cuda, Part.GPU, dtype=bool)
    fuses = column(deployments, lambda d: d.row.gpu.generation in fusing, Part.GPU, dtype=bool)
    return cuda & ~(fuses & fusable)


def _apart_layers(model: ModelSpec) -> int:
    mixers = enumerate(model.mixers)
    return sum(model.mixer_layers(index) for index, mixer in mixers if isinstance(mixer, LatentAttention))


def _leaves_latents_out(deployments: Sequence[Deployment]) -> PerRow:
    """Rows whose graphs of decode steps end before latent attention, (R,)."""
    inside = deployments[0].row.engine.launches.latents_inside_on
    return column(deployments, lambda d: d.row.gpu.runs_cuda and d.row.gpu.generation not in inside, Part.GPU)


def _more_s(engine: EngineSpec, mixer: Mixer) -> float:
    """Seconds per layer beyond what the launches of grouped-query attention take."""
    own, recurs = engine.launches, isinstance(mixer, LinearAttention | Mamba)
    return own.recurrent_layer_s * recurs + own.picking_layer_s * _picks(mixer)


def piece_tokens(engine: EngineSpec, deployments: Sequence[Deployment]) -> PerRow:
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


# What keeps an engine from replaying a step in pieces, by the names of its file (`PromptPieces.never_with`).
_EXCEPT: Mapping[str, Callable[[Deployment], bool]] = {
    "vendor": lambda d: not d.row.gpu.runs_cuda,
    "images": lambda d: (
        d.row.model.vision is not None and d.row.model.model_type not in d.row.engine.pieces.image_types
    ),
    "types": lambda d: d.row.model.model_type in d.row.engine.pieces.never_types,
    "picks": lambda d: any(_picks(mixer) for mixer in d.row.model.mixers),
    "latent": lambda d: d.row.model.has_latents,
    "ranks": lambda d: d.layout.defined.attention_dp > 1,
    "stages": lambda d: d.layout.pp > 1,
    "drafts": lambda d: d.row.draft is not None,
    "routing": lambda d: routes_inside(d.row.engine, d.row.model, d.row.gpu, d.row.weights),
}
