"""Calculator: will it run, how many people, how fast, what limits it, what should be changed.

The verdict is sent first and the charts last, because browsers take longest over these.
"""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

import advice
import bars
import charts
import logbox
import sidebar
from answerbox import changes, memory, problems, tiles, verdict
from answers import Answer, context_curve, first_answer, with_curve
from drawing import Chart, draw
from exports import downloads, start_line
from library import own_library
from planner import explain
from planner.estimate import Library
from planner.estimate.breakdown import breakdown
from state import start
from words import EVIDENCE, plain

VIEWS = (
    "Load and speed", "Prompt length and KV cache", "One step", "Formats compared", "Roofline", "Quality",
    "Formulas and sources",
)  # fmt: skip


def views(found: Answer, library: Library) -> None:
    """One view of the answer; only the open one is computed."""
    tabs = st.tabs(VIEWS, key="views", on_change="rerun")
    load, context, step, compared, roof, quality, formulas = tabs
    row = found.row
    if formulas.open:
        shown_formulas(formulas, explain.formulas(row, library.model(row["model"])))
    elif context.open:
        drawn(context, "chart_context", *charts.kv_context(context_curve(found.scenario, row, library), row))
    elif quality.open:
        advice.quality(quality, row, library)
    elif compared.open:
        drawn(compared, "chart_formats", *advice.formats(found, library))
    elif row["verdict"] == "no" or (row["ttft_ms"] is None and not load.open):
        why = "Nothing runs" if row["verdict"] == "no" else "More comes in than goes out"
        next(tab for tab in tabs if tab.open).caption(
            f"{why}, so there is no speed to draw. What would help stands below."
        )
    elif load.open:
        drawn(load, "chart_load", *charts.load_speed(found.curve, row))
    elif roof.open:
        drawn(roof, "chart_roofline", *advice.roofline_of(found.scenario, row, library))
    elif step.open:
        drawn(step, "chart_step", *bars.step_bars(breakdown(found.scenario, library)))


def shown_formulas(place: DeltaGenerator, found: Sequence[explain.Formula]) -> None:
    """Each with this scenario's numbers, its source and its evidence."""
    for formula in found:
        place.markdown(f"**{plain(formula.title)}**")
        place.code("\n".join(formula.lines), language=None, wrap_lines=True)
        known = EVIDENCE.get(formula.evidence, formula.evidence)
        place.caption(f"Source: {plain(formula.source)} · evidence: {plain(known)}")


def drawn(place: DeltaGenerator, key: str, chart: Chart, words: str) -> None:
    """A chart, and under it what it says."""
    draw(place, key, chart, words)
    place.caption(plain(words))


form = start("calculator")
library = own_library()
problems("Will a model run on these GPUs, for how many at once, how fast?")
found = first_answer(form.scenario, form.door, library)
if found.row["error"]:
    st.error(plain(found.row["error"]), title="This cannot be estimated", icon=":material/error:")
else:
    verdict(found.row, form.door)
    tiles(found.row)
with st.sidebar:
    sidebar.show(form, library, row=found.row)
if not found.row["error"]:
    bar, below = st.container(), st.container()
    found = with_curve(found, library)
    left, right = st.columns([1, 1], gap="large")
    with left:
        changes(found.changes, found.row)
    with right:
        st.subheader("Start it" if found.row["verdict"] != "no" else "Start it, after a change", anchor=False)
        start_line(found.row)
        downloads(form, found, library)
    with bar:
        memory(found.row)
    with below:
        views(found, library)
    logbox.show(found.row, form, library)
