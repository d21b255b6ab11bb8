"""Tables of rows: numbers to the right, units in the headers, sorted as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from planner import explain
from planner.catalog import models
from planner.params import parameters
from state import change

Row = dict[str, Any]
BILLION = 1e9

NUMBERS = {
    "size": st.column_config.NumberColumn("Size, B", format="%.3g"),
    "n_gpus": st.column_config.NumberColumn("GPUs"),
    "max_concurrency": st.column_config.NumberColumn("Room", help="Requests at once, all at full length"),
    "output_tokens_per_s_per_request": st.column_config.NumberColumn("Each user, tok/s", format="%.0f"),
    "ttft_s": st.column_config.NumberColumn("First token, s", format="%.2f"),
    "output_tokens_per_s": st.column_config.NumberColumn("Whole server, tok/s", format="%.0f"),
    "weights_gib": st.column_config.NumberColumn("Weights, GiB/GPU", format="%.1f"),
    "usd_per_million_output_tokens": st.column_config.NumberColumn("USD per M answer tokens", format="%.2f"),
}
TEXTS = {"model": "Model", "format": "Weights", "gpu": "GPU", "tp": "tp", "verdict": "Verdict", "support": "Support"}


def candidate_table(rows: Sequence[Row]) -> Row | None:
    """Candidates, one selectable; the row that is selected."""
    frame = pd.DataFrame(map(_line, rows), columns=[*_line(_EMPTY)])
    same = [name for name in ("gpu", "verdict", "support") if frame[name].nunique() < 2]
    frame = frame.drop(columns=same)
    event = st.dataframe(
        frame, hide_index=True, key="candidates", on_select="rerun", selection_mode="single-row", height=430,
        column_config=NUMBERS | {name: st.column_config.Column(label) for name, label in TEXTS.items()},
        alt="Models and formats that hold the load, best first",
    )  # fmt: skip
    at = event.selection.rows
    return rows[at[0]] if at and at[0] < len(rows) else None


_EMPTY: Row = dict.fromkeys(
    "model weight_format gpu n_gpus tp verdict support max_concurrency output_tokens_per_s_per_request ttft_ms "
    "output_tokens_per_s weights_gib usd_per_million_output_tokens".split()
) | {"model": "", "weight_format": "", "gpu": "", "verdict": "no"}


def _line(row: Row) -> dict[str, Any]:
    return {
        "model": row["model"],
        "size": parameters(models.model(row["model"])) / BILLION if row["model"] else None,
        "format": explain.format_name(row["weight_format"]),
        "n_gpus": row["n_gpus"],
        "gpu": explain.gpu_name(row["gpu"]) if row["gpu"] else "",
        "max_concurrency": row["max_concurrency"],
        "output_tokens_per_s_per_request": row["output_tokens_per_s_per_request"],
        "ttft_s": None if row["ttft_ms"] is None else row["ttft_ms"] / 1e3,
        "output_tokens_per_s": row["output_tokens_per_s"],
        "weights_gib": row["weights_gib"],
        "usd_per_million_output_tokens": row["usd_per_million_output_tokens"],
        "verdict": explain.VERDICT_WORDS[row["verdict"]],
        "support": row["support"],
    }


def rejected_table(rows: Sequence[Row]) -> None:
    """What does not hold the load, and why."""
    lines = [
        {
            "Model": row["model"],
            "Weights": explain.format_name(row["weight_format"]) if row["weight_format"] else "",
            "GPUs": row["n_gpus"],
            "GPU": row["gpu"],
            "Verdict": explain.VERDICT_WORDS[row["verdict"]] if row["verdict"] else "not estimated",
            "Reason": row["error"] or row["reason"],
        }
        for row in rows
    ]
    st.dataframe(pd.DataFrame(lines), hide_index=True, alt="Combinations that do not hold the load, with reasons")


def best_of_each(rows: Sequence[Row]) -> list[Row]:
    """The first row of every model and GPU."""
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        first.setdefault((row["model"], row["gpu"]), row)
    return list(first.values())


def open_row(row: Row | None) -> None:
    """For callbacks: a row's scenario goes to the calculator."""
    if row is None:
        return
    kept = ("model", "gpu", "n_gpus", "weight_format", "kv_format", "engine")
    update = {name: row[name] for name in kept} | dict.fromkeys(("tp", "pp", "ep", "attention_dp", "dp"))
    change(lambda form: form._replace(door="hardware", scenario=form.scenario.model_copy(update=update)))
    st.session_state["to_calculator"] = True
