"""Recommend: what to run on this hardware, or what hardware this load needs; which size and precision, and why."""

from __future__ import annotations

import streamlit as st

import recommended
import sidebar
import wish_box
from answerbox import problems
from exports import COLUMNS
from library import own_library
from links import address
from planner.errors import PlannerError
from planner.report import csv_text, json_text
from planner.report.choice import choice_report
from planner.search.records import ADDED_COLUMNS
from searching import Outcome, Search, kept, run
from state import start
from wishing import load_of, space_of, wish_of
from words import action, gpu_label, plain

FOUND = "recommended"  # the last search of this session
FOUND_COLUMNS = [*ADDED_COLUMNS, *COLUMNS]
REFUSED_COLUMNS = (
    "reason_code reason combinations model weight_format kv_format engine gpu n_gpus tp pp ep attention_dp dp "
    "concurrency input_tokens output_tokens"
).split()

form = start("recommend")
library = own_library()
with st.sidebar:
    sidebar.show_load(form, library)
problems()
s = form.scenario
if form.door == "hardware":
    st.subheader(f"What runs best on {s.n_gpus} × {plain(gpu_label(s.gpu or '', library))}?", anchor=False)
    which = "The models that you named" if "models" in dict(form.wishes) else "Every model of the catalogue"
    st.caption(f"{which} in every sensible format, under the load at the left.")
else:
    st.subheader("What does this load need?", anchor=False)
    usual = (
        " It starts with models of 15 to 40 B, which one GPU serves well, and weighs quality, cost and speed: by "
        "quality alone the largest model wins, by cost alone the smallest. Change both below."
    )
    st.caption(  # one element, whatever it says: those after it keep their places
        "Models, formats and the fewest GPUs of every kind with a price, for the load at the left."
        + ("" if form.wishes else usual)
    )
top = st.container()
wish_box.common_loads()
wish_box.order(form, library)
wish_box.folds(form, library)
wanted = Search(load_of(s, form.door), space_of(form.wishes, s, form.door), wish_of(form.wishes, form.door), library)
left, right = st.columns([1, 3], vertical_alignment="center")
asked = left.button(action("Search"), type="primary", key="search", width="stretch")
if asked:
    try:
        st.session_state[FOUND] = run(wanted, right)
    except PlannerError as error:
        st.error(plain(error), icon=":material/error:")

outcome: Outcome | None = kept(wanted) or st.session_state.get(FOUND)
if outcome is None:
    right.caption("It takes a few seconds; the pages stay usable.")
    st.stop()
found, wish = outcome.found, outcome.search.wish
if outcome.search != wanted:
    top.warning("The inputs have changed since. Search again for up-to-date answers.", icon=":material/history:")
else:
    right.caption(f"{found.combinations:,} combinations, {found.priced:,} of them priced, in {outcome.seconds:.1f} s.")
with top:
    recommended.winner(found, wish, library)
selected = None
if found.candidates:
    recommended.background(found, library)
    recommended.cards(found)
    recommended.front(found)
    selected = recommended.table(found, library)
with st.container(horizontal=True):
    if found.candidates:
        st.button(
            "Open in the calculator", key="open_row", disabled=selected is None, icon=":material/calculate:",
            on_click=recommended.open_row, args=(selected,),
        )  # fmt: skip
        st.download_button(
            "CSV", lambda: csv_text(FOUND_COLUMNS, found.candidates), "recommend.csv", "text/csv", on_click="ignore",
            key="csv_held",
        )  # fmt: skip
        st.download_button(
            "JSON", lambda: json_text(found.candidates), "recommend.json", "application/json", on_click="ignore",
            key="json_held",
        )  # fmt: skip
    st.download_button(
        "Report", lambda: choice_report(found, wish), "recommendation.html", "text/html",
        on_click="ignore", key="report_held",
    )  # fmt: skip
    link = st.popover("Link", key="link_held", on_change="rerun")
if link.open:
    with link:
        st.caption("The address of this page holds the load, the limits and the prices. To copy:")
        st.code(f"{str(st.context.url or '').split('?')[0]}?{address(form)}", language=None, wrap_lines=True)
title = f"{sum(found.reasons.values()):,} rejected, each with its reason"
with st.expander(title, key="rejected", on_change="rerun") as box:
    if box.open:
        recommended.refused(found)
        st.download_button(
            "CSV", lambda: csv_text(REFUSED_COLUMNS, found.rejected), "rejected.csv", "text/csv", on_click="ignore",
            key="csv_no",
        )  # fmt: skip
if st.session_state.pop("to_calculator", False):
    st.switch_page("views/calculator.py")
