"""A finished check becomes evidence of a scenario: your own test, before all that is published."""

from __future__ import annotations

from typing import Any

import streamlit as st

from answers import rows
from checking import is_sample
from library import MARK, keep_check, own_library
from planner.catalog import quality_results
from planner.catalog.quality import tables
from planner.errors import PlannerError
from planner.explain import format_name
from planner.quality.document import as_result
from planner.specs.scenario import Scenario
from words import model_label, plain

TOLD = "qc_attached"
ANY = "any task"


def attach_box(scenario: Scenario, document: dict[str, Any], local: bool) -> None:
    """Which scenario the check speaks of, and a button that says so."""
    with st.expander("Use it in Recommend", icon=":material/verified:"):
        if is_sample():
            st.caption("These are the template's examples. With your own in their place the verdict can be kept.")
            return
        row = rows([scenario], own_library())[0]
        if row["error"] or str(row["model"]).startswith(MARK):
            st.caption("Choose a model of the catalogue in the Calculator first; the check then speaks of it.")
            return
        st.markdown(
            f"The candidate was **{plain(model_label(row['model']))}** in "
            f"**{plain(format_name(row['weight_format']))}**, KV cache {plain(row['kv_format'])}: the scenario of the "
            "Calculator. Change it there if it was another."
        )
        families = {ANY: None} | {one.name: one.id for one in tables().families}
        family = st.selectbox("What the examples are", list(families), key="qc_family")
        about = {"model": row["model"], "weight_format": row["weight_format"], "kv_format": row["kv_format"]}
        about |= {"task_family": families[family]}
        st.button(
            "Attach as your own test", key="qc_attach", on_click=_attach, icon=":material/attach_file:",
            args=(about, document, local),
        )  # fmt: skip
        if told := st.session_state.pop(TOLD, ""):
            st.caption(plain(told))


def _attach(about: dict[str, str | None], document: dict[str, Any], local: bool) -> None:
    """For callbacks: kept on the user's own machine, for the visit anywhere else."""
    name, made = quality_results.new_id()
    result = as_result(document, {"id": name, "made": made, **about})
    if not local:
        keep_check(result)
    else:
        try:
            quality_results.keep(result)
        except PlannerError as error:
            st.session_state[TOLD] = str(error)
            return
    until = "" if local else ", for this visit"
    st.session_state[TOLD] = f'It stands before published evidence from now on{until}, marked "your own test".'
