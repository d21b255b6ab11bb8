"""Quality check: the user's own examples before and after quantizing; holds, cracks, or cannot tell."""

from __future__ import annotations

import streamlit as st

import qualitybox
from access import is_local
from attaching import attach_box
from checking import FAULT, KEPT, RESULT, RUNNING, Result, Running, begin, ended, stop, with_files
from planner.cli.quality_job import progress
from planner.errors import PlannerError
from planner.quality.session import missing_libraries
from qualityform import inputs, what_to_collect
from state import start
from words import action, plain

TICK_S = 1.0
NAMES = {"baseline": "before", "candidate": "after", "judge": "judge"}


@st.fragment(run_every=TICK_S)
def watch() -> None:
    """How far the check is; the whole page runs again when it has ended."""
    running: Running | None = st.session_state.get(RUNNING)
    if running is None or running.process.poll() is not None:
        st.rerun()
    st.markdown(f"Checking **{plain(running.job.examples.partition('/')[2])}**")
    counts = progress(running.folder)
    if not counts:
        st.progress(0.0, "Reading the examples")
    for count in counts:
        failed = f", {count.failed} failed" if count.failed else ""
        words = f"Answers {NAMES[count.side]}: {count.done:,} of {count.total:,}{failed}"
        st.progress(min(count.done / max(count.total, 1), 1.0), words)
    if counts and all(count.done + count.failed >= count.total for count in counts):
        st.caption("Scoring.")
    st.button("Stop", key="qc_stop", on_click=stop, icon=":material/stop:")


form = start("quality_check")
local = is_local()
st.subheader("Quality check", anchor=False)
if missing := missing_libraries():
    st.info(plain(missing), icon=":material/extension:")
    st.stop()
ended()
if st.session_state.get(RUNNING):  # alone on the page, so that the verdict then stands where one looks
    watch()
    st.stop()
result: Result | None = st.session_state.get(RESULT)
fault: str = st.session_state.get(FAULT, "")
top = st.container()
if result:
    qualitybox.downloads(result)
    attach_box(form.scenario, result.document, local)
    qualitybox.flips(result.document)
    qualitybox.tags(result.document)
    qualitybox.manners(result.document)
    st.divider()
what_to_collect()
wanted = inputs(local)
with top:
    if fault:
        st.error(plain(fault), icon=":material/error:")
    elif result:
        qualitybox.verdict(result.document)
        if result.job.settings != with_files(wanted.settings, wanted.kinds):
            st.caption(":material/history: The settings below have changed since this check.")
with st.container(horizontal=True, vertical_alignment="center"):
    label = "Go on where it ended" if KEPT in fault else "Check again" if fault or result else "Check"
    asked = st.button(
        label if wanted.missing else action(label),
        type="primary", key="qc_go", disabled=bool(wanted.missing),
    )  # fmt: skip
    st.caption(plain(wanted.missing or fault or "Answers are kept as they come; it can be stopped."))
if asked:
    try:
        begin(wanted.settings, wanted.kinds, wanted.run_tests, local)
    except PlannerError as error:
        st.session_state[FAULT] = str(error)
    st.rerun()
