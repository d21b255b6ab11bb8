"""Benchmarks of real engines beside the estimate: predicted against measured, and which of them may refine it.

A figure is flagged, and its configuration not used, when it lies below the hardware's limit (drafted tokens, cached
prompts), when its parallel sizes cannot be one deployment, or when the file itself says that something else ran.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from planner.catalog import gpus, models
from planner.catalog.formats import weight_format
from planner.catalog.observations import Reading
from planner.errors import BadValue, PlannerError
from planner.estimate import estimate
from planner.estimate.floors import Floors, floors
from planner.estimate.library import NOTHING_OBSERVED
from planner.estimate.refine import MOST, time_ratio
from planner.specs.observation import Observation
from planner.specs.scenario import Scenario
from planner.units import MS_PER_S

MOST_TP = 16  # GPUs of one aggregated group; beyond, several instances were counted as one
SLACK = 0.97  # of a limit, for clocks above the datasheet's and rounding
KEPT_COLUMNS = (
    "model weight_format kv_format engine engine_version gpu n_gpus tp pp ep attention_dp dp gpu_memory_utilization "
    "max_model_len max_num_seqs max_num_batched_tokens enforce_eager n_ubatch flash_attention n_gpu_layers n_cpu_moe "
    "backend split_mode power_limit_w input_tokens output_tokens concurrency request_rate_per_s waves run_requests "
    "cached_input_fraction"
).split()


class Figure(NamedTuple):
    """One measured figure and what was predicted, without observations and, where there are some, with them."""

    name: str
    predicted: float | None
    measured: float
    low: float | None
    high: float | None
    refined: float | None


class ComparedResult(NamedTuple):
    """One configuration of a result file."""

    reading: Reading
    scenario: Scenario  # as asked
    answer: Mapping[str, Any]  # without observations
    figures: tuple[Figure, ...]
    faults: tuple[str, ...]  # why it is not used; none: it may be kept


def scenario_of(reading: Reading, given: Mapping[str, Any]) -> Scenario:
    """The scenario that a reading ran; `given` columns replace the file's.

    Raises BadValue that names the missing field and the option that gives it.
    """
    columns = dict(reading.columns) | {name: value for name, value in given.items() if value is not None}
    columns["model"] = columns.get("model") or _model(reading)
    columns["gpu"] = columns.get("gpu") or _gpu(reading)
    for name, why in (("input_tokens", "how long the prompts were"), ("output_tokens", "how much was generated")):
        if columns.get(name) is None:
            option = name.replace("_", "-")
            raise BadValue(f"{reading.where}: the result does not say {why}; give --{option} N")
    if columns.get("concurrency") is None and columns.get("request_rate_per_s") is None:
        raise BadValue(f"{reading.where}: the result does not say how many requests ran at once; give --concurrency N")
    if columns.get("weight_format"):
        columns["weight_format"] = weight_format(str(columns["weight_format"])).id
    return Scenario.model_validate(columns)


def _model(reading: Reading) -> str:
    """The bundled model by the name in the file: an id, a file's name, the end of a path."""
    if not reading.model:
        raise BadValue(
            f"{reading.where}: the result does not say which model ran; give --model ('planner models' lists)"
        )
    name = reading.model.rstrip("/")
    parts = [part for part in name.split("/") if part]
    for candidate in (name, "/".join(parts[-2:]), parts[-1] if parts else ""):
        try:
            models.resolve(candidate)
        except PlannerError:
            continue
        return candidate
    said = (parts[-1] if parts else name)[:80]
    raise BadValue(f"{reading.where}: model {said!r} is not known; give --model ('planner models' lists what is)")


def _gpu(reading: Reading) -> str:
    if not reading.gpu:
        raise BadValue(
            f"{reading.where}: the result does not say on which GPU it ran; give --gpu ('planner gpus' lists)"
        )
    try:
        return gpus.gpu(reading.gpu).id
    except PlannerError as error:
        raise BadValue(f"{reading.where}: {error}; give --gpu") from None


def compared(readings: Sequence[Reading], given: Mapping[str, Any]) -> list[ComparedResult]:
    """Every reading beside its estimate. Raises BadValue as `scenario_of` does, and where there is no estimate."""
    scenarios = [scenario_of(reading, given) for reading in readings]
    plain = estimate(scenarios, library=NOTHING_OBSERVED).rows()
    refined = estimate(scenarios).rows()
    for reading, answer in zip(readings, plain, strict=True):
        if answer["error"]:
            raise BadValue(f"{reading.where}: {answer['error']}")
    return [_compared(*row) for row in zip(readings, scenarios, plain, refined, strict=True)]


def _compared(
    reading: Reading, scenario: Scenario, answer: Mapping[str, Any], refined: Mapping[str, Any]
) -> ComparedResult:
    changed = bool(refined["observations"])
    measured = dict(reading.measured)
    if "output_tokens_per_s" not in measured and "requests_per_s" in measured and scenario.output_tokens:
        measured["output_tokens_per_s"] = measured["requests_per_s"] * scenario.output_tokens
    figures = tuple(
        Figure(
            name,
            answer[name],
            value,
            answer.get(f"{name}_low"),
            answer.get(f"{name}_high"),
            refined[name] if changed else None,
        )
        for name, value in measured.items()
        if not (name == "tpot_ms" and scenario.output_tokens == 1)
    )
    return ComparedResult(reading, scenario, answer, figures, (*reading.faults, *_faults(scenario, answer, figures)))


def _faults(scenario: Scenario, answer: Mapping[str, Any], figures: Sequence[Figure]) -> list[str]:
    if (scenario.tp or 1) > MOST_TP:
        return [f"tp {scenario.tp}: more GPUs than one group serves; several instances were counted as one"]
    if answer["reason_code"] == "tp_invalid":
        return [f"its parallel sizes cannot be one deployment: {answer['reason']}"]
    if not answer["starts"]:
        return [f"by the estimate it does not start: {answer['reason']}"]
    limit = floors(scenario, NOTHING_OBSERVED)
    found = [fault for figure in figures if (fault := _beyond(figure, limit, scenario))]
    return found or [fault for figure in figures if (fault := _elsewhere(figure))]


def _beyond(figure: Figure, limit: Floors, scenario: Scenario) -> str:
    """Why a figure cannot be plain decoding of this model on this GPU; blank where it can."""
    tokens = (scenario.input_tokens or 0) * (1 - (scenario.cached_input_fraction or 0))
    seconds = {
        "tpot_ms": (
            figure.measured / MS_PER_S,
            limit.decode_s,
            "a step cannot read the weights faster; tokens were drafted?",
        ),
        "output_tokens_per_s_per_request": (1 / figure.measured, limit.decode_s, "the same; tokens were drafted?"),
        "prefill_tokens_per_s": (tokens / figure.measured, limit.prefill_s, "prompts were cached?"),
        "ttft_ms": (figure.measured / MS_PER_S, limit.prefill_s, "prompts were cached?"),
    }
    measured, least, why = seconds.get(figure.name, (1.0, 0.0, ""))
    if measured >= SLACK * least:
        return ""
    limit_ms = MS_PER_S * least
    return f"{figure.name} {figure.measured:.4g} is beyond the hardware's limit ({limit_ms:.3g} ms at its peaks): {why}"


def _elsewhere(figure: Figure) -> str:
    """Why a figure says more of the scenario than of the engine; blank where it does not."""
    if figure.name in ("ttft_ms", "e2e_ms", "requests_per_s") or not figure.predicted:
        return ""
    ratio = time_ratio(figure.name, figure.measured, figure.predicted)
    if 1 / MOST <= ratio <= MOST:
        return ""
    return f"{figure.name} is more than {MOST:g} times away from the estimate: another configuration than was read?"


def observation(one: ComparedResult) -> Observation:
    """What is kept of it: columns of deployment and load, and the figures. Raises BadValue when it is flagged."""
    where = one.reading.where
    if one.faults:
        raise BadValue(f"{where}: not kept: {one.faults[0]}")
    try:
        known = models.resolve(str(one.scenario.model)).checkpoint
        bundled = models.resolve(known)
    except PlannerError:
        raise BadValue(f"{where}: not kept: its model is not a bundled one; give --model with a bundled id") from None
    columns = {name: getattr(one.scenario, name) for name in KEPT_COLUMNS}
    resolved = {name: one.answer[name] for name in ("engine", "gpu", "weight_format", "kv_format", "backend")}
    columns |= resolved | {"model": bundled.model.id}
    body = {"tool": one.reading.tool, "scenario": Scenario(**columns), "measured": dict(one.reading.measured)}
    return Observation.model_validate(body)
