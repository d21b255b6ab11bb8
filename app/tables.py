"""Lines of tables: what is shown of a row, with units in the headers."""

from __future__ import annotations

from typing import Any

import streamlit as st

from library import MARK
from planner import explain
from planner.estimate import Library
from planner.estimate.columns import EstimateRow
from planner.params import parameters
from planner.search.words import THOUSAND
from planner.units import BILLION, MS_PER_S

NUMBERS = {
    "size": st.column_config.NumberColumn("Size, B", format="%.3g"),
    "n_gpus": st.column_config.NumberColumn("GPUs"),
    "max_concurrency": st.column_config.NumberColumn("Room", help="Requests at once, all at full length"),
    "output_tokens_per_s_per_request": st.column_config.NumberColumn("Each user, tok/s", format="%.0f"),
    "ttft_s": st.column_config.NumberColumn("First token, s", format="%.2f"),
    "output_tokens_per_s": st.column_config.NumberColumn("Whole server, tok/s", format="%.0f"),
    "weights_gib": st.column_config.NumberColumn("Weights, GiB/GPU", format="%.1f"),
    "usd_per_thousand_requests": st.column_config.NumberColumn("USD per 1,000 requests", format="%.3g"),
    "usd_per_million_output_tokens": st.column_config.NumberColumn("USD per M answer tokens", format="%.2f"),
}
TEXTS = {"model": "Model", "format": "Weights", "gpu": "GPU", "tp": "tp", "verdict": "Verdict", "support": "Support"}


def line(row: EstimateRow, library: Library) -> dict[str, Any]:
    """A row as a line of a table."""
    return {
        "model": str(row["model"]).removeprefix(MARK),
        "size": parameters(library.model(row["model"])) / BILLION if row["model"] else None,
        "format": explain.format_name(row["weight_format"]),
        "n_gpus": row["n_gpus"],
        "gpu": explain.gpu_name(row["gpu"]) if row["gpu"] else "",
        "max_concurrency": row["max_concurrency"],
        "output_tokens_per_s_per_request": row["output_tokens_per_s_per_request"],
        "ttft_s": None if row["ttft_ms"] is None else row["ttft_ms"] / MS_PER_S,
        "output_tokens_per_s": row["output_tokens_per_s"],
        "weights_gib": row["weights_gib"],
        "usd_per_thousand_requests": None if row["usd_per_request"] is None else row["usd_per_request"] * THOUSAND,
        "usd_per_million_output_tokens": row["usd_per_million_output_tokens"],
        "verdict": explain.VERDICT_WORDS[row["verdict"]],
        "support": row["support"],
    }
