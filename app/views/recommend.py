"""Recommend: which models at which precision hold this load, on this hardware or on these GPUs."""

from __future__ import annotations

import streamlit as st

import sidebar
from answerbox import problems
from exports import COLUMNS
from library import own_library
from planner.catalog import models
from planner.errors import PlannerError
from planner.report import csv_text
from planner.search import combinations
from searching import Outcome, Search, run
from state import start
from tables import best_of_each, candidate_table, open_row, rejected_table
from words import gpu_choices, gpu_label, plain

GENERATE = "generate"

form = start("recommend")
library = own_library()
with st.sidebar:
    sidebar.show(form, library, with_model=False)
problems()
s = form.scenario
known = [name for name in gpu_choices() if name != s.gpu]

st.subheader("Which model, at which precision?", anchor=False)
if form.door == "hardware":
    gpu_ids = [s.gpu or ""]
    where = f"{s.n_gpus} × {plain(gpu_label(gpu_ids[0], library))}"
    st.caption(f"Every bundled model in every sensible format on {where}, under the load at the left.")
else:
    st.caption(
        "Every bundled model in every sensible format, on the fewest of these GPUs that hold the load at the left."
    )
    gpu_ids = st.multiselect(
        "GPUs to consider", [s.gpu or "", *known], default=[s.gpu or ""], max_selections=6,
        format_func=lambda name: gpu_label(name, library),
    )  # fmt: skip
least, most = st.select_slider(
    "Model size, billion parameters",
    (0, 1, 3, 7, 10, 15, 20, 30, 40, 70, 100, 200, 400, 1000, 3000),
    (7, 3000),
    key="sizes",
)
chosen = [
    entry.id
    for entry in models.model_index()
    if entry.task == GENERATE and least * 1e9 <= entry.parameters <= most * 1e9
]
uploads = [name for name in (s.gpu or "", *gpu_ids) if name in library.gpus]
wanted = Search(s, form.door, tuple(gpu_ids), tuple(chosen))
try:
    total = len(combinations(s, chosen, [name for name in gpu_ids if name not in uploads]))
except PlannerError as error:
    st.error(plain(error), icon=":material/error:")
    st.stop()
left, right = st.columns([1, 3], vertical_alignment="center")
asked = left.button(
    "Search",
    type="primary",
    key="search",
    disabled=not total or bool(uploads),
    icon=":material/search:",
    width="stretch",
)
right.caption(
    "An uploaded GPU cannot be searched; choose one of the catalogue." if uploads
    else f"{len(chosen)} models, {total:,} combinations. Changing anything at the left stops a search."
)  # fmt: skip
if asked:
    run(wanted)

found: Outcome | None = st.session_state.get("found")
if found is None:
    st.info("Press Search. It runs beside the pages, and shows how far it is.", icon=":material/info:")
    st.stop()
if found.search != wanted:
    st.warning(
        "The inputs have changed since this search. Search again for up-to-date rows.", icon=":material/history:"
    )

held, refused = found.candidates, found.rejected
st.markdown(
    f"**{len(held):,} combinations hold the load**, of {len(held) + len(refused):,}. "
    "More parameters first, then more bits, then speed."
)
each = st.toggle("Best format of each model only", value=True, key="best_only")
shown = best_of_each(held) if each else held
selected = candidate_table(shown[:300])
with st.container(horizontal=True):
    st.button(
        "Open in the calculator", key="open_row", disabled=selected is None, icon=":material/calculate:",
        on_click=open_row, args=(selected,),
    )  # fmt: skip
    st.download_button(
        "CSV", lambda: csv_text(COLUMNS, held), "recommend.csv", "text/csv", on_click="ignore", key="csv_held"
    )
if st.session_state.pop("to_calculator", False):
    st.switch_page("views/calculator.py")
with st.expander(f"{len(refused):,} rejected, each with its reason", key="rejected", on_change="rerun") as box:
    if box.open:
        rejected_table(refused[:500])
        st.download_button(
            "CSV",
            lambda: csv_text(COLUMNS, refused),
            "rejected.csv",
            "text/csv",
            on_click="ignore",
            key="csv_no",
        )
