"""Compare: pinned scenarios, formats on this GPU, or GPUs for this model, with the differences first."""

from __future__ import annotations

from functools import partial

import streamlit as st

import bars
import sidebar
from answerbox import problems
from answers import rows as priced
from comparing import MOST_GPUS, VIEWS, difference_table, pin_current, same_table, unpin, variants
from drawing import draw
from exports import COLUMNS
from library import own_library
from links import MAX_PINS
from planner import explain
from planner.explain.compared import conclusion
from planner.report import csv_text
from state import start
from words import gpu_choices, gpu_label, plain

form = start("compare")
library = own_library()
with st.sidebar:
    sidebar.show(form._replace(door="hardware"), library, with_door=False)
problems()
st.subheader("Compare", anchor=False)
view = st.segmented_control(
    "What to compare", list(VIEWS), format_func=VIEWS.__getitem__, key="view", required=True,
    default="pins" if len(form.pins) > 1 else "formats",
)  # fmt: skip
if view == "pins":
    with st.container(horizontal=True, vertical_alignment="center"):
        full = len(form.pins) >= MAX_PINS or form.scenario in form.pins
        st.button(
            "Pin the current scenario", key="pin", on_click=pin_current, disabled=full, icon=":material/push_pin:"
        )
        here = (
            " This one is among them: change something at the left to pin another."
            if form.scenario in form.pins
            else ""
        )
        st.caption(f"{len(form.pins)} of {MAX_PINS} pinned; the link holds them too.{here}")

others: list[str] = []
if view == "gpus":
    others = st.multiselect(
        "Beside the GPU at the left", gpu_choices(), key="others", max_selections=MOST_GPUS,
        format_func=partial(gpu_label, library=library), placeholder="the common ones; type to choose others",
    )  # fmt: skip
chosen = variants(view or "formats", form, library, others)
if len(chosen) < 2:
    st.info(
        "Pin this scenario, change something at the left, and pin again: from two scenarios on they are compared here.",
        icon=":material/info:",
    )
    st.stop()
found = priced([item.scenario for item in chosen], library)
shown = [
    (item, row) for item, row in zip(chosen, found, strict=True) if view == "pins" or row["support"] != "unsupported"
]
labels, kept = [item.label for item, _ in shown], [row for _, row in shown]

named = [f"pin {number}" for number in range(1, len(labels) + 1)] if view == "pins" else labels
st.markdown("  \n".join(plain(line) for line in conclusion(named, kept)))
difference_table(labels, kept)
for title, name, unit in (
    ("Each user", "output_tokens_per_s_per_request", "tokens/s for each user"),
    ("Room", "max_concurrency", "requests at once"),
    ("Whole server", "output_tokens_per_s", "tokens/s, whole deployment"),
):
    values = [row[name] for row in kept]
    texts = [explain.interval(row, name) for row in kept]
    chart = bars.grouped_bars(labels, values, texts, unit, [bars.verdict_colour(row) for row in kept])
    words = "; ".join(f"{label}: {text}" for label, text in zip(labels, texts, strict=True))
    draw(st.container(), f"chart_{name}", chart, f"{title}, {unit}. {words}")
st.caption("Blue holds the load; grey does not.")
with st.container(horizontal=True):
    st.download_button("CSV", lambda: csv_text(COLUMNS, kept), "compare.csv", "text/csv", on_click="ignore", key="csv")
    for number, label in enumerate(labels if view == "pins" else []):
        st.button(
            f"Remove {plain(label)}",
            key=f"unpin_{number}",
            on_click=unpin,
            args=(number,),
            type="tertiary",
            icon=":material/close:",
        )
with st.expander("What is the same in all", key="same", on_change="rerun") as box:
    if box.open:
        same_table(kept)
