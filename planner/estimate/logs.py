"""An engine's start-up log compared with the estimate of the same deployment, term by term."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from planner.catalog import gpus, models
from planner.catalog.logs import LogLine, LogTerms, read_log
from planner.catalog.values import Value, scenario_of
from planner.errors import BadValue, PlannerError
from planner.estimate.library import NO_LIBRARY, Library
from planner.specs.scenario import Scenario
from planner.units import GIB

SAME_MEMORY = 0.01  # of a GPU whose name a log does not give: how far its memory may be from the log's
WORDS = {
    "weights_gib": "weights, adapters and drafts",
    "activation_gib": "peak activation or compute buffer",
    "non_torch_gib": "context, libraries and collectives",
    "cuda_graph_gib": "CUDA graphs",
    "kv_pool_gib": "KV cache",
    "kv_pool_tokens": "tokens of the KV cache",
    "kv_blocks": "blocks of the KV cache",
    "max_concurrency_at_max_model_len": "sequences of max_model_len",
    "recurrent_state_gib": "recurrent states",
}


class ComparedTerm(NamedTuple):
    """One term: what the planner says, what the engine printed, and where."""

    term: str  # columns of the estimate, joined by +
    meaning: str
    predicted: float
    measured: float
    line: LogLine

    @property
    def error(self) -> float | None:
        """predicted / measured - 1; None where the engine printed nothing or less."""
        return self.predicted / self.measured - 1 if self.measured > 0 else None


class ComparedLog(NamedTuple):
    """A log beside an estimate."""

    log: LogTerms
    answer: Mapping[str, Any]  # the estimate's row: scenario as resolved, verdict, every column
    terms: tuple[ComparedTerm, ...]


def scenario_of_log(log: LogTerms, given: Mapping[str, Value] | None = None) -> Scenario:
    """The scenario of a log; `given` columns replace what it says. Raises BadValue for what is missing."""
    stated: dict[str, Any] = {**log.settings, **(given or {})}
    if not stated.get("model"):
        raise BadValue("the log does not name the model; state model")
    _keep_own_format(stated, given or {})
    if not stated.get("gpu") or "gpu" not in (given or {}):
        stated["gpu"] = _gpu(stated)
    return scenario_of(stated)


def _keep_own_format(stated: dict[str, Any], given: Mapping[str, Value]) -> None:
    """Drop the log's name of the weight format where the checkpoint states its own, which says more."""
    if "weight_format" in given or "weight_format" not in stated or stated["engine"] == "llama.cpp":
        return
    try:
        found = models.resolve(str(stated["model"]))
    except PlannerError:
        return
    if found.weight_format or found.model.quantization:
        del stated["weight_format"]


def _gpu(stated: Mapping[str, Any]) -> str:
    """The GPU that the log names, else the one whose memory it states."""
    if stated.get("gpu"):
        try:
            return gpus.gpu(str(stated["gpu"])).id
        except PlannerError as error:
            raise BadValue(f"the log's GPU: {error}") from None
    if not stated.get("device_gib"):
        raise BadValue("the log names no GPU and no memory of one; state gpu")
    wanted = float(stated["device_gib"]) * GIB
    near = {id_: abs(gpus.gpu(id_).device_bytes / wanted - 1) for id_ in gpus.gpu_ids()}
    best = min(near, key=lambda id_: near[id_])
    if near[best] > SAME_MEMORY:
        raise BadValue(f"the log names no GPU, and none is known with {stated['device_gib']:g} GiB; state gpu")
    return best


def compare(log: LogTerms, scenario: Scenario, library: Library = NO_LIBRARY) -> ComparedLog:
    """The log beside the estimate of this scenario. Raises BadValue where it cannot be estimated."""
    from planner.estimate import estimate

    answer = estimate(scenario, library=library).rows()[0]
    if answer["error"]:
        raise BadValue(answer["error"])
    rows = []
    for term in log.terms:
        predicted = [answer[column] for column in term.columns]
        if all(value is not None for value in predicted):
            meaning = " + ".join(WORDS.get(column, column) for column in term.columns)
            rows.append(ComparedTerm("+".join(term.columns), meaning, sum(predicted), term.value, term.line))
    return ComparedLog(log, answer, tuple(rows))


def compare_text(
    data: str | bytes, given: Mapping[str, Value] | None = None, library: Library = NO_LIBRARY
) -> ComparedLog:
    """Read a pasted or uploaded log and compare it. Raises BadFile or BadValue."""
    log = read_log(data)
    return compare(log, scenario_of_log(log, given), library)
