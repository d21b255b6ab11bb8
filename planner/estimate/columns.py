"""The estimate as a record of columns, one array each, in the units that users see (docs/nomenclature.md).

Memory is GiB per GPU on the worst rank, times are ms, rates are per second of the whole deployment unless
the name says otherwise. NaN is "no such figure"; a row with an `error` holds nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from planner.specs.scenario import Scenario

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Texts = NDArray[np.object_]
EstimateRow = dict[str, Any]  # one scenario: its columns as resolved, then the estimate's; None: no such figure

COUNTS = frozenset(
    "kv_pool_tokens kv_blocks max_concurrency max_context_tokens sustainable_concurrency observations".split()
)
INTERVALS = (
    "weights_gib activation_gib kv_pool_gib max_concurrency "
    "prefill_tokens_per_s ttft_unloaded_ms ttft_ms tpot_ms e2e_ms "
    "output_tokens_per_s output_tokens_per_s_per_request output_tokens_per_s_per_gpu requests_per_s"
).split()
TEXTS = (
    "verdict fit_confidence reason_code reason checkpoint support bound "
    "memory_evidence speed_evidence engine_evidence engine_validation calibration_id "
    "quality_evidence kv_quality_evidence"
).split()
FLAGS = ("fits", "starts", "holds_load", "meets_slo")


def column(says: str) -> Any:
    """A field of the estimate and its line in the nomenclature."""
    return field(metadata={"says": says})


@dataclass(frozen=True, eq=False)
class Estimate:
    """Everything that the planner says of each scenario; arrays of shape (R,), in the scenarios' order.

    Floats hold NaN and texts "" where there is no such figure; `rows()` and `to_frame()` say None.
    """

    scenarios: tuple[Scenario, ...]  # as resolved: every default filled in

    verdict: Texts = column("no | starts | queues | holds | meets_slo")
    fits: Bools = column("the engine starts and its pool holds one sequence of input + output")
    starts: Bools = column("the same as fits")
    holds_load: Bools = column("the pool holds the whole load at once")
    meets_slo: Bools = column("holds the load and meets every objective that was given")
    fit_confidence: Texts = column("yes | tight | no: whether the interval of the pool crosses the line")
    reason_code: Texts = column("machine-readable reason of the verdict")
    reason: Texts = column("the same as a sentence")
    error: Texts = column("why this row could not be estimated; blank otherwise")
    checkpoint: Texts = column("the checkpoint to download, or that one must quantize it")
    support: Texts = column("native | weight_only | emulated | unsupported | unknown")

    budget_gib: Floats = column("memory that the engine lets itself use, per GPU")
    weights_gib: Floats = column("resident weights on the worst rank")
    kv_pool_gib: Floats = column("what is left for the KV cache and recurrent state")
    kv_needed_gib: Floats = column("KV cache of the whole load at full length")
    kv_occupancy: Floats = column("kv_needed over kv_pool")
    recurrent_state_gib: Floats = column("recurrent state of the load's sequences")
    activation_gib: Floats = column("peak activation")
    non_torch_gib: Floats = column("CUDA context, collectives' buffers and workspaces")
    cuda_graph_gib: Floats = column("captured CUDA graphs")
    free_gib: Floats = column("device memory that nothing claims")
    host_needed_gib: Floats = column("host memory of one replica: weights that stay there, with their layers' cache")
    load_peak_gib: Floats = column("peak while the weights are loaded")

    kv_bytes_per_token: Floats = column("KV cache bytes of one token on one GPU")
    kv_pool_tokens: Floats = column("tokens that the pool holds")
    kv_blocks: Floats = column("blocks of the pool")
    max_concurrency: Floats = column("sequences of input + output that the pool holds, all at full length")
    max_concurrency_at_max_model_len: Floats = column("the figure that vLLM prints")
    max_concurrency_expected: Floats = column("sequences that the pool holds at mean residency")
    max_context_tokens: Floats = column("longest sequence that fits at this concurrency")

    prefill_tokens_per_s: Floats = column("prompt tokens per second of one unloaded replica")
    ttft_unloaded_ms: Floats = column("time to first token, alone")
    ttft_ms: Floats = column("mean time to first token under this load: queueing, and a load generator's first wave")
    tpot_ms: Floats = column("mean time per output token after the first")
    e2e_ms: Floats = column("mean time of a whole request")
    output_tokens_per_s: Floats = column("generated tokens per second, whole deployment")
    output_tokens_per_s_per_request: Floats = column("1 / TPOT: what one user sees")
    output_tokens_per_s_per_gpu: Floats = column("generated tokens per second and GPU")
    requests_per_s: Floats = column("finished requests per second, whole deployment")
    sustainable_concurrency: Floats = column(
        "requests at once, or users who think, without a growing queue and within the objectives"
    )
    sustainable_request_rate_per_s: Floats = column("largest rate without a growing queue that meets the objectives")
    bound: Texts = column("memory | compute | network | overhead | kv_pool")

    memory_evidence: Texts = column("measured | reference | datasheet")
    speed_evidence: Texts = column("measured | reference | datasheet: of the operators")
    engine_evidence: Texts = column("observed | transferred | assumed: of the engine's kernels and overheads")
    engine_validation: Texts = column(
        "validated | not validated: whether measured runs of this engine on such GPUs are among the shipped rows"
    )
    observations: Floats = column("stored observations of this engine on this GPU that refine its times; 0: none")
    observed_decode_factor: Floats = column("what they put on the time of a step that generates; blank: none")
    observed_prefill_factor: Floats = column("what they put on the time of a step that reads prompts; blank: none")
    calibration_id: Texts = column("run or reference that the speed rests on; blank: the datasheet")

    usd_per_hour: Floats = column("price of all GPUs per hour")
    usd_per_month: Floats = column("the same for 730 hours")
    usd_per_request: Floats = column("cost of a request, prompt and answer, at this load")
    usd_per_million_input_tokens: Floats = column("cost of a million prompt tokens at this load")
    usd_per_million_output_tokens: Floats = column("cost of a million generated tokens at this load")
    quality_loss_points: Floats = column(
        "points of a score lost to the weight format, median of what is published for task and size; blank: no evidence"
    )
    quality_worst_points: Floats = column("the worst of those losses")
    quality_evidence: Texts = column(
        "own test | reference | native | trained for | good | fair | thin | conflicting | none: badge of that evidence"
    )
    kv_quality_loss_points: Floats = column("points lost to the KV format; not to be added, no source measured both")
    kv_quality_evidence: Texts = column("badge of that evidence")

    low: dict[str, Floats] = field(default_factory=dict)  # lower ends of the 80 % intervals, by column
    high: dict[str, Floats] = field(default_factory=dict)
    planner_version: str = ""
    schema_version: str = "1"

    def __len__(self) -> int:
        return len(self.scenarios)

    def rows(self) -> list[EstimateRow]:
        """One dict per scenario: its columns as resolved, then the estimate's; None where there is no figure."""
        names = estimate_columns()
        columns = [_cells(name, self._array(name)) for name in names]
        failed = self.error
        out = []
        for index, (scenario, values) in enumerate(zip(self.scenarios, zip(*columns, strict=True), strict=True)):
            row = dict(scenario.__dict__)
            if failed[index]:
                row |= dict.fromkeys(names)
                row["error"] = failed[index]
            else:
                row |= dict(zip(names, values, strict=True))
            row["planner_version"], row["schema_version"] = self.planner_version, self.schema_version
            out.append(row)
        return out

    def to_frame(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame (pandas is imported here, not with the planner)."""
        import pandas as pd

        return pd.DataFrame(self.rows(), columns=answer_columns())

    def _array(self, name: str) -> NDArray[Any]:
        if name.endswith("_low") and name[:-4] in self.low:
            return self.low[name[:-4]]
        if name.endswith("_high") and name[:-5] in self.high:
            return self.high[name[:-5]]
        values: NDArray[Any] = getattr(self, name)
        return values


def joined(parts: Sequence[Estimate], order: NDArray[np.intp]) -> Estimate:
    """The parts of a batch as one estimate, its rows in this `order`."""

    def rows(arrays: Iterator[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate([*arrays])[order]

    scenarios = [scenario for part in parts for scenario in part.scenarios]
    columns: dict[str, Any] = {
        item.name: rows(getattr(part, item.name) for part in parts) for item in fields(Estimate) if item.metadata
    }
    return replace(
        parts[0],
        scenarios=tuple(scenarios[place] for place in order.tolist()),
        low={name: rows(part.low[name] for part in parts) for name in INTERVALS},
        high={name: rows(part.high[name] for part in parts) for name in INTERVALS},
        **columns,
    )


def answer_columns() -> list[str]:
    """Names of every column of an answer's row, in order: the scenario's, the estimate's, the versions."""
    return [*Scenario.model_fields, *estimate_columns(), "planner_version", "schema_version"]


def documented() -> Iterator[tuple[str, str]]:
    """Name and meaning of every estimate column, in order."""
    for item in fields(Estimate):
        if "says" in item.metadata:
            yield item.name, item.metadata["says"]
            if item.name in INTERVALS:
                yield f"{item.name}_low", f"lower end of the 80 % interval of {item.name}"
                yield f"{item.name}_high", f"upper end of the 80 % interval of {item.name}"


@lru_cache(maxsize=1)
def estimate_columns() -> tuple[str, ...]:
    """Names of the estimate's columns in the order of a CSV."""
    return tuple(name for name, _ in documented())


def _cells(name: str, values: NDArray[Any]) -> list[Any]:
    """Python values of one column: None for NaN and "", int for counts."""
    if values.dtype == np.float64:
        counts = name in COUNTS
        return [None if not math.isfinite(x) else int(x) if counts else x for x in values.tolist()]
    return [None if value == "" else value for value in values.tolist()]
