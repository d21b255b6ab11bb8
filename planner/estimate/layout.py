"""How a deployment is divided over GPUs: what the scenario fixes, what is left to choose, what an engine refuses."""

from __future__ import annotations

from functools import lru_cache, partial
from operator import itemgetter
from typing import NamedTuple

from planner.catalog.values import shares_of
from planner.errors import BadValue
from planner.estimate.resolve import ResolvedRow
from planner.formats.packing import padded
from planner.identity import Same
from planner.specs.engine import EngineSpec
from planner.specs.model import (
    Attention,
    CompressedAttention,
    LatentAttention,
    LinearAttention,
    Mamba,
    Mixer,
    ModelSpec,
    MoeFfn,
)

GPUS_PER_NODE = 8


class Layout(NamedTuple):
    """One way to divide a deployment; `invalid` says why the engine would refuse it."""

    tp: int
    pp: int
    ep: int
    attention_dp: int
    dp: int
    invalid: str = ""

    @property
    def n_gpus(self) -> int:
        """GPUs of all replicas."""
        return self.tp * self.pp * self.dp

    @property
    def defined(self) -> Layout:
        """This layout if it is valid, else a stand-in for which all formulas are defined."""
        return self._replace(pp=1, ep=1, attention_dp=1) if self.invalid else self


class Sizes(NamedTuple):
    """The scenario's columns that layouts follow from."""

    n_gpus: int | None
    tp: int | None
    pp: int | None
    ep: int | None
    attention_dp: int | None
    dp: int | None
    gpus_per_node: int | None
    split_mode: str | None
    tensor_split: str | None


_sizes = itemgetter(*Sizes._fields)


def layouts(row: ResolvedRow) -> tuple[Layout, ...]:
    """Layouts to consider for a scenario, the smallest tensor-parallel group first.

    Raises BadValue for sizes that contradict each other.
    """
    return _layouts(Same(row.model), Same(row.engine), Sizes._make(_sizes(vars(row.scenario))))


@lru_cache(maxsize=8192)
def _layouts(model: Same[ModelSpec], engine: Same[EngineSpec], s: Sizes) -> tuple[Layout, ...]:
    """Equal sizes give the same records, so that what follows from a layout is computed once."""
    pp, ep, attention_dp = s.pp or 1, s.ep or 1, s.attention_dp or 1
    by_layers = engine.value.division.by_layers
    checked = partial(_checked, model.value, engine.value)
    if by_layers and s.tp is None and s.pp is None:
        return (checked(_split_over_gpus(s)),)
    total = s.n_gpus or (s.tp or 1) * pp * (s.dp or 1)
    if s.tp is not None or s.n_gpus is None or by_layers:
        tp = s.tp or 1
        dp = s.dp or max(total // (tp * pp), 1)
        if tp * pp * dp != total:
            raise BadValue(f"n_gpus {total} is not tp {tp} x pp {pp} x dp {dp}")
        return (checked(Layout(tp, pp, ep, attention_dp, dp)),)
    divisions = [
        checked(Layout(tp, pp, ep, attention_dp, total // (tp * pp)))
        for tp in range(1, total // pp + 1)
        if total % (tp * pp) == 0 and (s.dp is None or total // (tp * pp) == s.dp)
    ]
    if not divisions:
        raise BadValue(f"n_gpus {total} cannot be divided into pp {pp} x dp {s.dp or 'any'}")
    valid = [layout for layout in divisions if not layout.invalid and layout.tp <= (s.gpus_per_node or GPUS_PER_NODE)]
    return tuple(valid or divisions[:1])


def _split_over_gpus(s: Sizes) -> Layout:
    """How llama.cpp uses the GPUs of an instance: whole layers on each, rows of every matrix, or only the first GPU."""
    shares = len(shares_of(s.tensor_split)) if s.tensor_split else 1
    dp = s.dp or 1
    gpus = max((s.n_gpus or shares * dp) // dp, 1)
    if gpus * dp != (s.n_gpus or gpus * dp):
        raise BadValue(f"n_gpus {s.n_gpus} is not tp 1 x pp {gpus} x dp {dp}")
    if s.split_mode == "none" and gpus > 1:
        raise BadValue(f"split_mode none uses one GPU of {gpus}; state n_gpus 1, or dp for one instance on each")
    if s.tensor_split and shares != gpus:
        raise BadValue(f"column 'tensor_split': {shares} shares for {gpus} GPUs")
    tp, pp = (gpus, 1) if s.split_mode == "row" else (1, gpus)
    return Layout(tp, pp, s.ep or 1, s.attention_dp or 1, dp)


def _checked(model: ModelSpec, engine: EngineSpec, layout: Layout) -> Layout:
    return layout._replace(invalid=fault(model, engine, layout))


def fault(model: ModelSpec, engine: EngineSpec, layout: Layout) -> str:
    """Why the engine refuses this layout, however many replicas it has; "" when it does not."""
    tp, pp, ep, attention_dp = layout[:4]
    if pp > model.n_layers and not engine.division.head_is_layer:
        return f"pp {pp} exceeds the model's {model.n_layers} layers"
    if tp % attention_dp:
        return f"attention_dp {attention_dp} does not divide tp {tp}"
    if tp % ep:
        return f"ep {ep} does not divide tp {tp}"
    experts = min((ffn.n_experts for ffn in model.ffns if isinstance(ffn, MoeFfn)), default=ep)
    if ep > experts:
        return f"ep {ep} exceeds the model's {experts} experts"
    vocabulary = padded(model.vocab_size, engine.division.vocab_multiple)
    if engine.division.vocab_multiple > 1 and model.lm_head and vocabulary % tp:
        return f"the padded vocabulary of {vocabulary} does not divide by tp {tp}"
    if not engine.cache.sharded:
        return ""  # llama.cpp splits rows of matrices, not heads, and leaves GPUs idle that get no layer
    faults = (head_fault(mixer, tp // attention_dp) for mixer in model.mixers)
    return next(filter(None, faults), "")


@lru_cache(maxsize=4096)
def head_fault(mixer: Mixer, group: int) -> str:
    """Why a mixer cannot be split over `group` GPUs: heads must divide, KV heads divide or replicate evenly."""
    if isinstance(mixer, Attention | LatentAttention | CompressedAttention) and mixer.n_heads % group:
        return f"{mixer.n_heads} attention heads do not divide by {group}"
    if isinstance(mixer, Attention) and mixer.n_kv_heads % group and group % mixer.n_kv_heads:
        return f"{mixer.n_kv_heads} KV heads neither divide by {group} nor replicate evenly"
    if isinstance(mixer, LinearAttention) and (mixer.n_v_heads % group or mixer.n_k_heads % group):
        return f"{mixer.n_k_heads} and {mixer.n_v_heads} linear-attention heads do not both divide by {group}"
    if isinstance(mixer, Mamba) and (mixer.n_heads if mixer.version == 2 else mixer.inner) % group:
        return f"the heads of a state-space layer do not divide by {group}"
    return ""
