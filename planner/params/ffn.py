"""Weight tensors of dense feed-forward blocks and of mixtures of experts."""

from __future__ import annotations

from planner.params.tensor import Shard, Tensor, with_bias
from planner.specs.model import DenseFfn, ModelSpec, MoeFfn, Role


def _mlp(prefix: str, role: Role, widths: tuple[int, int], gated: bool, layers: tuple[int, ...]) -> list[Tensor]:
    """Gate, up and down matrices; `widths` are (model width, inner width)."""
    hidden, inner = widths
    first = f"{prefix}.gate_up" if gated else f"{prefix}.up"
    up = Tensor(f"{prefix}.up", role, first, inner, hidden, layers, shard=Shard.COLUMN, units=inner)
    down = Tensor(f"{prefix}.down", role, f"{prefix}.down", hidden, inner, layers, shard=Shard.ROW, units=inner)
    return [up._replace(name=f"{prefix}.gate"), up, down] if gated else [up, down]


def dense_tensors(ffn: DenseFfn, model: ModelSpec, layers: tuple[int, ...]) -> list[Tensor]:
    """Two or three matrices of a DenseFfn, with their biases."""
    return with_bias(_mlp("mlp", Role.MLP, (model.hidden_size, ffn.intermediate), ffn.gated, layers), ffn.bias)


def moe_tensors(ffn: MoeFfn, model: ModelSpec, layers: tuple[int, ...]) -> list[Tensor]:
    """Router, routed experts, shared experts and what else stands beside them.

    A correction bias of the router (DeepSeek) is a buffer, not a parameter, and is left out.
    """
    hidden = model.hidden_size
    router = Tensor("moe.router", Role.ROUTER, "moe.router", ffn.n_experts + ffn.zero_experts, hidden, layers)
    tensors = with_bias([router], ffn.router_bias == "linear") + _experts(ffn, model, layers)
    if ffn.latent:
        tensors += [
            Tensor("moe.latent_down", Role.MLP, "moe.latent_down", ffn.latent, hidden, layers),
            Tensor("moe.latent_up", Role.MLP, "moe.latent_up", hidden, ffn.latent, layers),
        ]
    if ffn.latent and ffn.latent_norm:
        tensors.append(Tensor("moe.latent_norm", Role.NORM, "", ffn.latent, 1, layers))
    if ffn.shared_intermediate:
        widths = (hidden, ffn.shared_intermediate)
        tensors += with_bias(_mlp("shared", Role.SHARED_EXPERT, widths, ffn.gated, layers), ffn.bias)
    if ffn.shared_gate:
        tensors.append(Tensor("shared.router", Role.ROUTER, "shared.router", 1, hidden, layers))
    if ffn.dense_intermediate:
        tensors += _mlp("mlp", Role.MLP, (hidden, ffn.dense_intermediate), ffn.gated, layers)
    return tensors


def _experts(ffn: MoeFfn, model: ModelSpec, layers: tuple[int, ...]) -> list[Tensor]:
    """The routed experts. Identity experts take their share of the top k and cost nothing."""
    active = ffn.top_k * ffn.n_experts / (ffn.n_experts + ffn.zero_experts)
    widths = (ffn.latent or model.hidden_size, ffn.intermediate)
    matrices = _mlp("experts", Role.EXPERT, widths, ffn.gated, layers)
    routed = [m._replace(copies=ffn.n_experts, active=active, shard=Shard.EXPERT, units=1) for m in matrices]
    return with_bias(routed, ffn.bias)
