"""A GPU of one's own by the figures without which nothing can be said of it."""

from __future__ import annotations

import streamlit as st

from library import MARK, keep_gpu
from planner.catalog import gpus
from planner.errors import PlannerError
from state import apply

FIGURES = {
    "label_gb": ("Memory, GB", 1.0, 10_000.0, 24.0, 1.0),
    "bandwidth_gb_per_s": ("Bandwidth, GB/s", 10.0, 100_000.0, 1000.0, 50.0),
    "bf16_tflops": ("BF16, dense TFLOP/s", 0.1, 100_000.0, 150.0, 10.0),
    "compute_capability": ("Compute capability", 5.0, 20.0, 8.9, 0.1),
}


def custom_gpu() -> None:
    """Name and figures, and a button that takes them."""
    with st.form("custom_gpu", border=False):
        st.caption("Or a GPU by its figures")
        st.text_input("Name", value="my-gpu", max_chars=40, key="own_name")
        for column, (label, least, most, value, step) in FIGURES.items():
            st.number_input(label, least, most, value, step, "%g", f"own_{column}")
        st.form_submit_button("Use this GPU", on_click=_keep)


def _keep() -> None:
    """For callbacks: the figures become the GPU of the scenario."""
    state = st.session_state
    state["refused"] = ""
    typed = "".join(c for c in state["own_name"] if c.isalnum() or c in "-_.")[:40] or "gpu"
    document = {"id": typed, "name": typed, "vendor": "NVIDIA"} | {column: state[f"own_{column}"] for column in FIGURES}
    try:
        apply({"gpu": keep_gpu(gpus.gpu_from_profile(document, typed), MARK + typed)})
    except PlannerError as error:
        state["refused"] = str(error)
