"""Why a search found nothing: the limit that binds and the best within reach, else the nearest combination."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from planner.estimate.answer import STOPS
from planner.explain import format_name, gpu_name, model_name
from planner.search import limits
from planner.search.choose import ALONE, MOST_GPUS
from planner.search.records import Columns, Reached, Refused
from planner.specs.scenario import Scenario
from planner.specs.wish import Wish

MEMORY = "would need more memory"
WEIGHTS, GPUS = "out_of_weights", "max_gpus"
WHOLE = 1000  # from which a figure is told without decimals
STAGES = (  # what is wrong with those that a filter rejects, in the order in which filters apply, and its codes
    ("cannot take such requests", ("error", "beyond_the_model")),
    ("would need a format that nobody publishes", ("format_not_made",)),
    ("would use a format that the engine or the GPU does not support", ("unsupported_format", "unknown_support")),
    ("cannot be divided over these GPUs", ("tp_invalid", "count_not_divided")),
    ("would exceed a budget", tuple(bound.name for bound in limits.BOUNDS if bound.early)),
    (MEMORY, tuple(code for code, _ in STOPS.values())),
    ("would start but not hold this load", ("above_capacity", "kv_pool_full")),
    ("would be slower than the objectives", ("slo_missed", "slower_than_read")),
    ("would stay below a minimum that was set", tuple(bound.name for bound in limits.BOUNDS if not bound.early)),
)
HOST = "state the memory of the computer (host_memory_gib), and llama.cpp may keep layers there"


def failed(reasons: Mapping[str, int]) -> list[tuple[str, int]]:
    """The filters that rejected something, and how many combinations each."""
    counts = [(name, sum(reasons.get(code, 0) for code in codes)) for name, codes in STAGES]
    return [(name, count) for name, count in counts if count]


def emptied(
    load: Scenario, wish: Wish, reasons: Mapping[str, int], best: Mapping[str, Reached], refused: Sequence[Refused]
) -> str:
    """Which filter left nothing, which limit binds, and the best that anything reaches of it; without one the nearest
    combination and what it lacks."""
    faults = failed(reasons)
    if not faults:
        return "nothing to choose from"
    counted = [f"{count:,} {fault}" for fault, count in faults]
    said = f"Of {sum(reasons.values()):,} combinations " + ", ".join([*counted[:-1], f"the last {counted[-1]}"])
    if len(faults) == 1:
        said = f"All combinations {faults[0][0]}"
    binding = [*_binding(load, wish, best)]
    if not binding:
        binding = [*_nearest(refused, dict(STAGES)[faults[-1][0]])]
        if set(reasons) & {*dict(STAGES)[MEMORY]} == {WEIGHTS} and not load.host_memory_gib:
            binding.append(HOST)
    return ". ".join(filter(None, ["; ".join(binding), said]))


def _binding(load: Scenario, wish: Wish, best: Mapping[str, Reached]) -> Iterator[str]:
    """Limits that nothing reaches, each beside the best that is."""
    bounds = {bound.name: bound for bound in limits.BOUNDS}
    for key, reached in best.items():
        name, alone = key.removesuffix(ALONE), key.endswith(ALONE)
        if alone and name in best:
            continue
        limit = getattr(load, name, None) or getattr(wish, name, None)
        less = limits.less_is_better(name)
        if name == GPUS and limit is None and reached.value > MOST_GPUS:
            yield f"it takes {reached.value:,.0f} GPUs or more ({_where(reached)}), and {MOST_GPUS:,} are tried at most"
        elif limit is not None and (reached.value <= limit) != less:
            value = f"{_told(reached.value)}{' ms' * (name in limits.OBJECTIVES)} ({_where(reached)})"
            if name in limits.OBJECTIVES:
                yield f"{limits.OBJECTIVES[name]} of {_told(limit)} ms is out of reach: the best is {value}"
                continue
            end = "one replica alone takes" if alone else "the least is" if less else "the best is"
            side = "most" if less else "least"
            yield f"{bounds[name].words}: at {side} {_told(limit)} is out of reach: {end} {value}"


def _told(value: float) -> str:
    return f"{value:,.0f}" if value >= WHOLE else f"{value:,.4g}"


def _where(reached: Reached) -> str:
    c = reached.columns
    return f"{_what(c)} on {c['tp'] * c['pp']} × {gpu_name(c['gpu'])}"


def _what(columns: Columns) -> str:
    kind = columns.get("weight_format")
    return model_name(columns.get("model")) + (f" in {format_name(kind)}" if kind else "")


def _nearest(refused: Iterable[Refused], codes: tuple[str, ...]) -> Iterator[str]:
    """The nearest combination that the last filter rejected, and its reason."""
    nearest: Any = next((one for one in refused if one.code in codes), None)
    if nearest:
        yield f"the nearest, {_what(nearest.columns)} on {gpu_name(nearest.columns['gpu'])}: {nearest.reason}"
