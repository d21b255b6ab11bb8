"""Calculator: will it run, how many people, how fast, what limits it, what should be changed."""

from __future__ import annotations

import streamlit as st

import charts
import sidebar
from answerbox import changes, memory, problems, tiles, verdict
from answers import answer, context_curve
from exports import downloads, start_line
from library import own_library
from planner import explain
from planner.estimate import Library as Brought
from planner.estimate.breakdown import breakdown
from state import start
from words import plain

form = start("calculator")
library = own_library()
with st.sidebar:
    sidebar.show(form, library)
problems()
found = answer(form.scenario, form.door, library)
row = found.row

if row["error"]:
    st.error(plain(row["error"]), title="This cannot be estimated", icon=":material/error:")
    st.stop()

verdict(row, form.door)
tiles(row)
memory(row)
views = st.tabs(
    ["Load and speed", "Prompt length and KV cache", "One step", "Formulas and sources"], key="views", on_change="rerun"
)
if views[0].open and row["ttft_ms"] is None:
    views[0].caption("Nothing runs, so there is no speed to draw. What would help stands below.")
elif views[0].open:
    chart, words = charts.load_speed(found.curve, row)
    views[0].plotly_chart(chart, key="chart_load", config=charts.CONFIG, alt=words)
    views[0].caption(plain(words))
elif views[1].open:
    chart, words = charts.kv_context(context_curve(found.scenario, row, library), row)
    views[1].plotly_chart(chart, key="chart_context", config=charts.CONFIG, alt=words)
    views[1].caption(plain(words))
elif views[2].open and row["ttft_ms"] is None:
    views[2].caption("Nothing runs, so there is no step to take apart.")
elif views[2].open:
    chart, words = charts.step_bars(breakdown(found.scenario, Brought(*library)))
    views[2].plotly_chart(chart, key="chart_step", config=charts.CONFIG, alt=words)
    views[2].caption(plain(words))
elif views[3].open:
    for formula in explain.formulas(row, library.model(row["model"])):
        views[3].markdown(f"**{plain(formula.title)}**")
        views[3].code("\n".join(formula.lines), language=None, wrap_lines=True)
        views[3].caption(f"Source: {plain(formula.source)} · evidence: {plain(formula.evidence)}")

left, right = st.columns([1, 1], gap="large")
with left:
    changes(found.changes, row)
with right:
    start_line(row)
    downloads(form, found, library)
