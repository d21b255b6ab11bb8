"""How a deployment is divided over its GPUs: what the scenario fixes, what is left to choose, what is invalid."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from planner.errors import BadValue
from planner.estimate.resolve import Row
from planner.specs.model import Attention, LatentAttention, LinearAttention, Mixer, ModelSpec

GPUS_PER_NODE = 8


class Layout(NamedTuple):
    """One way of dividing; `invalid` says why an engine would refuse it."""

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


def layouts(row: Row) -> list[Layout]:
    """What to consider for a scenario, smallest tensor-parallel group first. BadValue for sizes that contradict."""
    s = row.scenario
    pp, ep, attention_dp = s.pp or 1, s.ep or 1, s.attention_dp or 1
    if row.engine.id == "llama.cpp" and s.tp is None and s.pp is None:
        pp = (s.n_gpus or 1) // (s.dp or 1)
    total = s.n_gpus or (s.tp or 1) * pp * (s.dp or 1)
    if s.tp is not None or s.n_gpus is None or row.engine.id == "llama.cpp":
        tp = s.tp or 1
        dp = s.dp or max(total // (tp * pp), 1)
        if tp * pp * dp != total:
            raise BadValue(f"n_gpus {total} is not tp {tp} x pp {pp} x dp {dp}")
        return [_layout(row.model, tp, pp, ep, attention_dp, dp)]
    found = [
        _layout(row.model, tp, pp, ep, attention_dp, total // (tp * pp))
        for tp in range(1, total // pp + 1)
        if total % (tp * pp) == 0 and (s.dp is None or total // (tp * pp) == s.dp)
    ]
    if not found:
        raise BadValue(f"n_gpus {total} cannot be divided into pp {pp} x dp {s.dp or 'any'}")
    valid = [layout for layout in found if not layout.invalid and layout.tp <= (s.gpus_per_node or GPUS_PER_NODE)]
    return valid or found[:1]


def _layout(model: ModelSpec, tp: int, pp: int, ep: int, attention_dp: int, dp: int) -> Layout:
    return Layout(tp, pp, ep, attention_dp, dp, _fault(model, tp, pp, ep, attention_dp))


def _fault(model: ModelSpec, tp: int, pp: int, ep: int, attention_dp: int) -> str:
    """Why an engine refuses this division; "" when it does not."""
    if pp > model.n_layers:
        return f"pp {pp} exceeds the model's {model.n_layers} layers"
    if tp % attention_dp:
        return f"attention_dp {attention_dp} does not divide tp {tp}"
    if tp % ep:
        return f"ep {ep} does not divide tp {tp}"
    faults = (head_fault(mixer, tp // attention_dp) for mixer in model.mixers)
    return next(filter(None, faults), "")


@lru_cache(maxsize=4096)
def head_fault(mixer: Mixer, group: int) -> str:
    """Why a mixer cannot be split over `group` GPUs: heads must divide, KV heads divide or replicate evenly."""
    if isinstance(mixer, Attention | LatentAttention) and mixer.n_heads % group:
        return f"{mixer.n_heads} attention heads do not divide by {group}"
    if isinstance(mixer, Attention) and mixer.n_kv_heads % group and group % mixer.n_kv_heads:
        return f"{mixer.n_kv_heads} KV heads neither divide by {group} nor replicate evenly"
    if isinstance(mixer, LinearAttention) and mixer.n_v_heads % group:
        return f"{mixer.n_v_heads} linear-attention heads do not divide by {group}"
    return ""
