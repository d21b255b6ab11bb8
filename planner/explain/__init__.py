"""What an estimate means, in words: the verdict, its margin, the formulas behind it, and the cheapest changes."""

from __future__ import annotations

from planner.explain.changes import Change, Proposal, changes, chosen, proposals
from planner.explain.formulas import Formula, formulas
from planner.explain.printed import log_lines
from planner.explain.words import (
    BOUND_WORDS,
    VERDICT_RANK,
    VERDICT_WORDS,
    Verdict,
    answer_price,
    beyond_the_model,
    deployment,
    duration,
    engine_name,
    figure,
    format_name,
    gpu_name,
    interval,
    misses,
    model_name,
    span,
    states_beside_pool_gib,
    tight,
    verdict,
)

__all__ = [
    "BOUND_WORDS",
    "VERDICT_RANK",
    "VERDICT_WORDS",
    "Change",
    "Formula",
    "Proposal",
    "Verdict",
    "answer_price",
    "beyond_the_model",
    "changes",
    "chosen",
    "deployment",
    "duration",
    "engine_name",
    "figure",
    "format_name",
    "formulas",
    "gpu_name",
    "interval",
    "log_lines",
    "misses",
    "model_name",
    "proposals",
    "span",
    "states_beside_pool_gib",
    "tight",
    "verdict",
]
