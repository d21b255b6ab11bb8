"""What a search is asked: the space that it may choose from, and what the user wishes of the choice."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from planner.specs.base import Name, Spec
from planner.specs.scenario import GpuCount

Limit = Annotated[float, Field(gt=0, le=1e12)]
Price = Annotated[float, Field(gt=0, le=1e5)]
Share = Annotated[float, Field(ge=0, le=1)]
Names = Annotated[tuple[Name, ...], Field(max_length=4096)]
Counts = Annotated[tuple[GpuCount, ...], Field(max_length=64)]
Concurrency = Annotated[int, Field(ge=1, le=10**7)]


class RankBy(StrEnum):
    """What comes first among candidates that hold the load and meet the objectives."""

    QUALITY = "quality"
    COST = "cost"  # USD per request; fewest GPUs where no price is known
    THROUGHPUT = "throughput"  # generated tokens per second and GPU
    LATENCY = "latency"  # end-to-end time of a request
    BLEND = "blend"


class Weights(Spec):
    """How much each wish counts in a blend; only their proportions matter."""

    quality: Share = 0.4
    cost: Share = 0.3
    throughput: Share = 0.1
    latency: Share = 0.2


def limit(meaning: str) -> Any:
    """A blank limit and its line in the help."""
    return Field(default=None, description=meaning)


class Wish(Spec):
    """Objectives, budgets and order; a blank limit limits nothing. Times are those of Scenario's `slo_percentile`."""

    ttft_slo_ms: Limit | None = limit("objective: time to first token, ms")
    tpot_slo_ms: Limit | None = limit("objective: time per output token after the first, ms")
    e2e_slo_ms: Limit | None = limit("objective: time of a whole request, ms")
    min_output_tokens_per_s: Limit | None = limit("least generated tokens per second, whole deployment")
    min_output_tokens_per_s_per_request: Limit | None = limit("least tokens per second that each user sees")
    min_requests_per_s: Limit | None = limit("least finished requests per second, whole deployment")
    min_context_tokens: Limit | None = limit("longest request that must fit beside the load, tokens")
    max_gpus: GpuCount | None = limit("most GPUs")
    max_usd_per_hour: Limit | None = limit("most USD per hour, all GPUs")
    max_usd_per_month: Limit | None = limit("most USD per month of 730 hours, all GPUs")
    max_power_w: Limit | None = limit("most watts, boards of all GPUs at their limits")
    max_quality_loss_points: Annotated[float, Field(ge=0, le=100)] | None = limit("most points lost to the formats")
    usd_per_gpu_hour: dict[Name, Price] = Field(
        default_factory=dict, description="prices by GPU id, in place of the profiles' dated examples"
    )
    rank_by: RankBy = RankBy.QUALITY
    weights: Weights = Weights()  # of a blend
    task_family: Name | None = limit("what the answers are judged by: chat, knowledge, maths, code, tools, ...")


class Space(Spec):
    """What may be combined; an empty axis means what is usual there.

    `tps`: GPUs of one replica's tensor-parallel group; llama.cpp divides layers, not tensors, over so many.
    `counts`: GPUs of the whole deployment; `replicas`: how many of them; both empty: as many as the load needs.
    `concurrencies`: loads to try in place of the load's own.
    """

    models: Names = ()
    gpus: Names = ()
    formats: Names = ()
    kv_formats: Names = ()
    engines: Names = ()
    counts: Counts = ()
    replicas: Counts = ()
    tps: Counts = ()
    pps: Counts = ()
    eps: Counts = ()
    attention_dps: Counts = ()
    concurrencies: Annotated[tuple[Concurrency, ...], Field(max_length=64)] = ()
