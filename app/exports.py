"""What leaves the page: the start line, the checkpoint, files, the link."""

from __future__ import annotations

import streamlit as st

from answers import Answer
from comparing import pin_current
from links import MAX_PINS, Form, address
from planner import explain
from planner.estimate import Library, estimate_columns
from planner.report import csv_text, json_text
from planner.report.html import report
from planner.report.launch import checkpoint, launch_command
from planner.specs.scenario import Scenario
from words import plain

COLUMNS = [*Scenario.model_fields, *estimate_columns(), "planner_version", "schema_version"]


def start_line(row: dict[str, object]) -> None:
    """Which checkpoint to get, and the line that starts it."""
    said = str(row["checkpoint"] or "")
    if checkpoint(row):
        st.markdown(f"Checkpoint: `{said.replace('`', '')}`")
    elif said:
        st.markdown(plain(said.replace("quantize ", "Quantize ", 1).partition(": vLLM --")[0]))
    command = launch_command(row)
    if command:
        st.code(command, language=None, wrap_lines=True)
    else:
        st.caption(f"{plain(explain.engine_name(str(row['engine'])))} has no server: there is no start line.")


def downloads(form: Form, found: Answer, library: Library) -> None:
    """CSV, JSON and the report, and the link to this very page."""
    row = found.row
    with st.container(horizontal=True):
        st.download_button(
            "CSV", lambda: csv_text(COLUMNS, [row]), "estimate.csv", "text/csv", on_click="ignore", key="csv"
        )
        st.download_button(
            "JSON", lambda: json_text([row]), "estimate.json", "application/json", on_click="ignore", key="json"
        )
        st.download_button(
            "Report", lambda: report(row, found.curve, library.model(row["model"]), address(form)),
            "sizing-report.html", "text/html", on_click="ignore", key="report",
        )  # fmt: skip
        pinned = form.scenario in form.pins
        st.button(
            "Pinned" if pinned else "Pin to compare", key="pin", on_click=pin_current, icon=":material/push_pin:",
            disabled=pinned or len(form.pins) >= MAX_PINS,
        )  # fmt: skip
        box = st.popover("Link", key="link", on_change="rerun")
    if form.pins:
        more = "" if len(form.pins) > 1 else ": change something at the left and pin again"
        st.caption(f"{len(form.pins)} of {MAX_PINS} pinned on the page Compare{more}.")
    if box.open:
        with box:
            st.caption("The address of this page holds the whole scenario. To copy:")
            st.code(f"{str(st.context.url or '').split('?')[0]}?{address(form)}", language=None, wrap_lines=True)
            if library.models or library.gpus:
                st.caption("Uploaded models and GPUs stay in this session; a link cannot carry them.")
