"""Linear attention and state spaces: their weight tensors, and the state that a sequence keeps in each layer.

Tensors follow the transformers classes (Qwen3-Next, Kimi-Linear, MiniMax, LFM2, Nemotron-H, Jamba). Projections that a
checkpoint fuses stand apart where tensor parallelism divides their parts differently (keys, values, groups).
"""

from __future__ import annotations

from typing import NamedTuple

from planner.params.tensor import Shard, Tensor, with_bias
from planner.specs.model import LinearAttention, Mamba, ModelSpec, Role


class StateSize(NamedTuple):
    """Values that one sequence keeps in one layer: the recurrent state, and the inputs of the convolution."""

    state_values: int
    conv_values: int


def recurrent_state(mixer: LinearAttention | Mamba) -> StateSize:
    """State of one sequence in one layer.

    A matrix [k_head_dim, v_head_dim] per value head, or `state` values per channel; the convolution keeps
    the last conv_width - 1 inputs of each of its channels. Left out: the slots that speculative decoding adds.
    Ref: vllm MambaStateShapeCalculator (gated_delta_net, kda, linear_attention, short_conv, mamba1, mamba2)
    """
    kept = max(mixer.conv_width - 1, 0)
    if isinstance(mixer, LinearAttention):
        matrices = 0 if mixer.rule == "short_conv" else mixer.n_v_heads * mixer.k_head_dim * mixer.v_head_dim
        return StateSize(matrices, kept * _linear_channels(mixer))
    return StateSize(mixer.inner * mixer.state, kept * _mamba_channels(mixer))


def _linear_channels(mixer: LinearAttention) -> int:
    """Channels of the convolution over q, k and v, or over the gated input alone."""
    if mixer.rule == "short_conv":
        return mixer.n_v_heads * mixer.v_head_dim
    return 2 * mixer.n_k_heads * mixer.k_head_dim + mixer.n_v_heads * mixer.v_head_dim


def _mamba_channels(mixer: Mamba) -> int:
    """Channels of the convolution: x alone, in version 2 with B and C of every group."""
    return mixer.inner + (2 * mixer.n_groups * mixer.state if mixer.version == 2 else 0)


def _column(name: str, op: str, n: int, k: int, layers: tuple[int, ...], units: int) -> Tensor:
    return Tensor(name, Role.SSM, op, n, k, layers, shard=Shard.COLUMN, units=units, attention=True)


def _row(name: str, n: int, k: int, layers: tuple[int, ...], units: int) -> Tensor:
    return Tensor(name, Role.SSM, name, n, k, layers, shard=Shard.ROW, units=units, attention=True)


def _small(name: str, n: int, k: int, layers: tuple[int, ...], units: int) -> Tensor:
    return _column(name, "", n, k, layers, units)._replace(role=Role.SMALL)


def _norm(name: str, n: int, layers: tuple[int, ...]) -> Tensor:
    return Tensor(name, Role.NORM, "", n, 1, layers, attention=True)


def linear_tensors(mixer: LinearAttention, model: ModelSpec, layers: tuple[int, ...]) -> list[Tensor]:
    """Projections, convolution, decay, gate and norm of a LinearAttention."""
    hidden, heads, k_heads = model.hidden_size, mixer.n_v_heads, mixer.n_k_heads
    keys, values = k_heads * mixer.k_head_dim, heads * mixer.v_head_dim
    tensors = [
        _column("linear.q", "linear.qkv", keys, hidden, layers, k_heads),
        _column("linear.k", "linear.qkv", keys, hidden, layers, k_heads),
        _column("linear.v", "linear.qkv", values, hidden, layers, heads),
        *([] if mixer.rule == "short_conv" else _linear_gate(mixer, hidden, layers)),
        _row("linear.out", hidden, values, layers, heads),
    ]
    if mixer.conv_width:
        channels = _linear_channels(mixer)
        tensors.append(_small("linear.conv", channels, mixer.conv_width, layers, min(k_heads, heads)))
    if mixer.rule == "short_conv":
        return tensors
    if mixer.rule == "lightning":
        return [*tensors, _norm("linear.norm", values, layers)]
    decays = values if mixer.rule == "kda" else heads
    tensors += [_small("linear.dt_bias", decays, 1, layers, heads), _small("linear.a_log", heads, 1, layers, heads)]
    return [*tensors, _norm("linear.norm", mixer.v_head_dim, layers)]


def _linear_gate(mixer: LinearAttention, hidden: int, layers: tuple[int, ...]) -> list[Tensor]:
    """Output gate, write strength (beta) and decay.

    The gated delta rule decays per head; KDA per channel, through a projection of rank v_head_dim or at once.
    Lightning attention has a fixed decay. KDA's gate has a low rank too where `gate_rank` is set.
    """
    heads, values, rank = mixer.n_v_heads, mixer.n_v_heads * mixer.v_head_dim, mixer.v_head_dim
    gate = [_column("linear.gate", "linear.qkv", values, hidden, layers, heads)]
    if mixer.gate_rank:
        gate = [
            Tensor("linear.gate_a", Role.SSM, "linear.a", mixer.gate_rank, hidden, layers, attention=True),
            _column("linear.gate_b", "linear.gate_b", values, mixer.gate_rank, layers, heads),
        ]
    if mixer.rule == "lightning":
        return gate
    gate.append(_column("linear.beta", "linear.ba", heads, hidden, layers, heads))
    if mixer.rule == "gated_delta":
        return [*gate, _column("linear.decay", "linear.ba", heads, hidden, layers, heads)]
    if mixer.full_decay:
        return [*gate, _column("linear.decay", "linear.qkv", values, hidden, layers, heads)]
    return [
        *gate,
        Tensor("linear.decay_a", Role.SSM, "linear.a", rank, hidden, layers, attention=True),
        _column("linear.decay_b", "linear.decay_b", values, rank, layers, heads),
    ]


def mamba_tensors(mixer: Mamba, model: ModelSpec, layers: tuple[int, ...]) -> list[Tensor]:
    """Projections, convolution, decay and norm of a Mamba block."""
    tensors = _mamba1(mixer, model.hidden_size, layers) if mixer.version == 1 else _mamba2(mixer, model, layers)
    units = mixer.n_heads if mixer.version == 2 else mixer.inner
    channels = _mamba_channels(mixer)
    tensors.append(_small("mamba.conv", channels, mixer.conv_width, layers, units))
    if mixer.conv_bias:
        tensors.append(_small("mamba.conv.bias", channels, 1, layers, units))
    return tensors


def _mamba1(mixer: Mamba, hidden: int, layers: tuple[int, ...]) -> list[Tensor]:
    """One state row per channel; dt, B and C come from x through a narrow projection."""
    inner, state, rank = mixer.inner, mixer.state, mixer.dt_rank
    in_proj = _column("mamba.in", "mamba.in", 2 * inner, hidden, layers, inner)
    tensors = [
        *with_bias([in_proj, _row("mamba.out", hidden, inner, layers, inner)], mixer.proj_bias),
        _row("mamba.x", rank + 2 * state, inner, layers, inner),
        *with_bias([_column("mamba.dt", "mamba.dt", inner, rank, layers, inner)], True),
        _small("mamba.a_log", inner, state, layers, inner),
        _small("mamba.d", inner, 1, layers, inner),
    ]
    if mixer.inner_norms:
        widths = {"dt": rank, "b": state, "c": state}
        tensors += [_norm(f"mamba.{name}_norm", width, layers) for name, width in widths.items()]
    return tensors


def _mamba2(mixer: Mamba, model: ModelSpec, layers: tuple[int, ...]) -> list[Tensor]:
    """One decay per head; gate, x, B, C and dt come from one projection."""
    hidden, inner, heads = model.hidden_size, mixer.inner, mixer.n_heads
    projections = [
        _column("mamba.z", "mamba.in", inner, hidden, layers, heads),
        _column("mamba.x", "mamba.in", inner, hidden, layers, heads),
        _column("mamba.bc", "mamba.in", 2 * mixer.n_groups * mixer.state, hidden, layers, mixer.n_groups),
        _column("mamba.dt", "mamba.in", heads, hidden, layers, heads),
        _row("mamba.out", hidden, inner, layers, heads),
    ]
    small = [_small(f"mamba.{name}", heads, 1, layers, heads) for name in ("dt_bias", "a_log", "d")]
    norm = [_norm("mamba.norm", inner, layers)] if mixer.gated_norm else []
    return with_bias(projections, mixer.proj_bias) + small + norm
