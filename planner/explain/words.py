"""The verdict in words and figures as exact as their intervals: the same on the page, in the report, everywhere.

Everything here reads rows of `Estimate.rows()`; the only arithmetic is rounding.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from planner.catalog import engines, formats, gpus, models
from planner.errors import PlannerError
from planner.estimate.columns import EstimateRow

VERDICT_RANK = {"no": 0, "starts": 1, "queues": 2, "holds": 3, "meets_slo": 4}
VERDICT_WORDS = {
    "no": "Does not start",
    "starts": "Starts, for one at a time",
    "queues": "Queues",
    "holds": "Holds the load",
    "meets_slo": "Meets your objectives",
}
HOLDING = ("holds", "meets_slo")
BOUND_WORDS = {
    "memory": "memory bandwidth",
    "compute": "arithmetic",
    "network": "the link between GPUs",
    "overhead": "fixed costs of a step",
    "kv_pool": "room for the KV cache",
}
ROOMY = 0.7  # share of the pool in use, below which there is room to spare
ENGINE_NAMES = {"none": "no engine"}


class Verdict(NamedTuple):
    """The answer first: a state, its headline and one sentence with the margin."""

    state: str
    headline: str
    sentence: str


def figure(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A number with the digits that its interval deserves: its width to two digits; three digits without one."""
    if value is None or not math.isfinite(value):
        return "–"
    known = low is not None and high is not None and math.isfinite(low) and math.isfinite(high) and high > low
    span = (high or 0) - (low or 0) if known else abs(value)
    if span <= 0:
        return f"{value:,.0f}"
    place = math.floor(math.log10(span)) - (1 if known else 2)
    place = max(place, 0) if isinstance(value, int) else place
    return f"{round(value, -place):,.{min(max(0, -place), 9)}f}"


def interval(row: EstimateRow, name: str) -> str:
    """A column with its 80 % interval: 74 (61–88)."""
    text = figure(row[name], row.get(f"{name}_low"), row.get(f"{name}_high"))
    ends = span(row, name)
    return f"{text} ({ends})" if ends else text


def span(row: EstimateRow, name: str) -> str:
    """The 80 % interval of a column alone: 61–88; blank where there is none."""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    if low is None or high is None or row[name] is None or low == high:
        return ""
    if isinstance(row[name], int):
        low, high = round(low), round(high)
    return f"{figure(low, low, high)}–{figure(high, low, high)}"


def duration(row: EstimateRow, name: str) -> tuple[str, str]:
    """A column of milliseconds in the unit that reads best, and its interval in the same: ("0.31 s", "0.20–0.50 s")."""
    value, low, high = row[name], row.get(f"{name}_low"), row.get(f"{name}_high")
    if value is None:
        return "–", ""
    scale, unit = next((s, u) for s, u, least in _UNITS if value >= least)
    low, high = (None if x is None else x / scale for x in (low, high))
    ends = "" if low is None or high is None else f"{figure(low, low, high)}–{figure(high, low, high)} {unit}"
    return f"{figure(value / scale, low, high)} {unit}", ends


_UNITS = ((3.6e6, "h", 7.2e6), (6e4, "min", 1.2e5), (1e3, "s", 1e2), (1.0, "ms", 0.0))


def verdict(row: EstimateRow) -> Verdict:
    """The verdict of one row with its margin."""
    state = row["verdict"]
    headline = VERDICT_WORDS[state] + (", but misses an objective" if misses(row) else "")
    near = tight(row)
    if near:
        headline += f". Tight: {near}"
    elif state in HOLDING and not misses(row) and row["kv_occupancy"] is not None and row["kv_occupancy"] < ROOMY:
        headline += ", with room"
    return Verdict(state, headline + ".", f"{deployment(row)} {_margin(row)} {beyond_the_model(row)}".strip())


def beyond_the_model(row: EstimateRow) -> str:
    """What to know of requests that fit and are longer than the model was made for; blank where they are not."""
    if VERDICT_RANK[row["verdict"]] < VERDICT_RANK["starts"] or row["max_model_len"]:
        return ""
    try:
        most = models.resolve(row["model"]).model.max_position
    except PlannerError:
        return ""
    if row["input_tokens"] + row["output_tokens"] <= most:
        return ""
    return f"Longer than the checkpoint's {most:,} tokens: engines refuse it unless told to stretch positions."


def misses(row: EstimateRow) -> bool:
    """Whether the load is held but an objective is not met."""
    return bool(row["verdict"] == "holds" and row["reason"])


def tight(row: EstimateRow) -> str:
    """Which line the interval crosses, in words: that of starting, or that of holding the load; else blank."""
    low, high = row["max_concurrency_low"] or 0, row["max_concurrency_high"] or 0
    starts = row["fit_confidence"] == "tight"
    open_loop = row["users"] or row["request_rate_per_s"]
    holds = not open_loop and low < (row["concurrency"] or 1) <= high
    match row["verdict"]:
        case "no":
            return "it might start" if starts else ""
        case "holds" | "meets_slo":
            return "likely, not certain" if starts or holds else ""
        case _ if starts and low < 1:
            return "it might not start"
        case _:
            return "it might hold the load" if starts or holds else ""


def deployment(row: EstimateRow) -> str:
    """Model, format, GPUs and engine of a row in one phrase."""
    count = row["n_gpus"] or 1
    engine = f"{engine_name(row['engine'])} {row['engine_version'] or ''}".strip()
    how = ", ".join(filter(None, (layout(row), engine)))
    model = model_name(row["model"])
    return f"{model} in {format_name(row['weight_format'])} on {count} × {gpu_name(row['gpu'])} ({how})"


def layout(row: EstimateRow) -> str:
    """How a model lies on its GPUs: "tp 2", "2 replicas of tp 1"; blank on a single GPU."""
    names = ("tp", "pp", "ep", "attention_dp")
    split = ", ".join(f"{name.replace('_', ' ')} {row[name]}" for name in names if (row[name] or 1) > 1)
    replicas = row["dp"] or 1
    return f"{replicas} replicas of {split or 'tp 1'}" if replicas > 1 else split


def states_beside_pool_gib(row: EstimateRow) -> float:
    """Recurrent states of one GPU that stand beside the KV pool; 0 where the engine keeps them in its pages."""
    engine = engines.engine(row["engine"], row["engine_version"])
    return 0.0 if engine.cache.state_in_pool else row["recurrent_state_gib"] or 0.0


def answer_price(row: EstimateRow) -> tuple[str, str]:
    """USD for a million answer tokens and its interval, which is that of the speed: hours cost what they cost."""
    usd, rate = row["usd_per_million_output_tokens"], row["output_tokens_per_s"]
    if not usd or not rate:
        return "", ""
    low, high = row.get("output_tokens_per_s_low"), row.get("output_tokens_per_s_high")
    if not low or not high:
        return figure(usd), ""
    least, most = usd * rate / high, usd * rate / low
    return figure(usd, least, most), f"{figure(least, least, most)}–{figure(most, least, most)}"


def model_name(name: str | None) -> str:
    """A model without who published it."""
    return str(name or "").rsplit("/", 1)[-1].removeprefix("upload:")


def gpu_name(name: str) -> str:
    """What people call a GPU; the name itself when no catalogue holds it."""
    try:
        return gpus.gpu(name).name
    except PlannerError:
        return name.removeprefix("upload:")


def engine_name(name: str) -> str:
    """What people call an engine."""
    try:
        return ENGINE_NAMES.get(name) or engines.engine(name).name
    except PlannerError:
        return name


def format_name(name: str) -> str:
    """What people call a weight format."""
    try:
        return formats.weight_format(name).name
    except PlannerError:
        return name


def _margin(row: EstimateRow) -> str:
    answers = f" + {row['output_tokens']:,}" if row["output_tokens"] else ""
    lengths = f"{row['input_tokens']:,}{answers} tokens"
    room = interval(row, "max_concurrency")
    reason = str(row["reason"] or "").rstrip(".")
    match row["verdict"]:
        case "no":
            return f"does not start: {reason}."
        case "starts":
            return f"holds one request of {lengths} at a time, and {_asked(row)} were asked for."
        case "queues":
            return f"has room for {room} requests of {lengths}; {_asked(row)} were asked for. {_capital(reason)}."
        case _:
            missed = f" Missed: {reason}." if misses(row) else ""
            return f"keeps {_asked(row)} of {lengths}; room for {room}.{missed}"


def _asked(row: EstimateRow) -> str:
    """The load in words."""
    if row["request_rate_per_s"]:
        return f"{row['request_rate_per_s']:,.4g} requests/s"
    if row["users"]:
        return f"{row['users']:,} users"
    return requests(row["concurrency"] or 1)


def requests(count: int) -> str:
    """A number of requests in words."""
    return f"{count:,} request{'s' if count > 1 else ''}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
