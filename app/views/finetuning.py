"""Fine-tuning: does a step of full fine-tuning, LoRA or QLoRA fit these GPUs, and what would make it fit."""

from __future__ import annotations

from urllib.parse import urlencode

import pandas as pd
import streamlit as st

import bars
import training
from answerbox import problems
from drawing import BLUE, FREE, GREY, ORANGE, PURPLE, RED, draw
from library import own_library
from planner import explain
from planner.estimate import Library
from planner.explain.training import peak_parts, training_changes, training_formulas, training_verdict
from planner.finetuning import answer_columns, estimate_finetune
from planner.finetuning.answer import FinetuneRow
from planner.report import csv_text, json_text
from planner.specs.finetune import FinetuneScenario
from words import plain, size

COLUMNS = [*FinetuneScenario.model_fields, *answer_columns()]
BOXES = {
    "yes": (st.success, ":material/check_circle:"),
    "tight": (st.warning, ":material/hourglass_top:"),
    "no": (st.error, ":material/cancel:"),
}
TERMS = {
    "weights_gib": ("weights", BLUE),
    "adapters_gib": ("adapters", "#56b4e9"),
    "optimizer_gib": ("optimizer", ORANGE),
    "buffers_gib": ("buffers", "#009e73"),
    "gradients_gib": ("gradients", RED),
    "activations_gib": ("activations", PURPLE),
    "layer_gib": ("one layer at work", "#7d4a76"),
    "loss_gib": ("logits and loss", "#cc79a7"),
    "step_gib": ("the step's temporaries", "#c9a227"),
    "allocator_gib": ("allocator", "#5f656e"),
    "context_gib": ("CUDA context", GREY),
}
PRINTED = {
    "loaded_gib": "torch.cuda.memory_reserved after loading",
    "peak_allocated_gib": "torch.cuda.max_memory_allocated",
    "peak_reserved_gib": "torch.cuda.max_memory_reserved",
    "peak_gib": "nvidia-smi at the peak",
}


def tiles(row: FinetuneRow) -> None:
    """The peak, and how far lengths, batches and cards reach."""
    boxes = st.container(horizontal=True)
    peak = explain.figure(row["peak_gib"], row["peak_gib_low"], row["peak_gib_high"])
    part = row["trained_parameters"] / row["parameters"]
    share = f"{'all' if part == 1 else f'{100 * part:.2g} %'} of {row['parameters'] / 1e9:,.3g} B"
    trained = size(row["trained_parameters"], row["trained_parameters"])
    fits = "What would still fit, everything else unchanged."
    shown = "Highest use of a GPU as nvidia-smi shows it; small type: the interval that holds 80 % of cases."
    for label, value, small, tip in (
        ("Peak, GiB", peak, explain.span(row, "peak_gib"), shown),
        ("Longest sequence", _most(row["max_seq_len"]), "tokens, at this micro-batch", fits),
        ("Largest micro-batch", _most(row["max_batch_size"]), "at this length", fits),
        ("Trained", trained, share, "Parameters that the run updates."),
    ):
        boxes.metric(label, value, small or None, delta_color="off", delta_arrow="off", help=tip, border=True)


def _most(count: int) -> str:
    return f"{count:,}" if count else "none"


def memory(row: FinetuneRow) -> None:
    """One GPU at the peak, as a bar and in words."""
    parts = [(*TERMS[part.column], part.gib) for part in peak_parts(row)]
    segments = [(name, size, colour) for name, colour, size in parts]
    spare = row["available_gib"] - row["peak_gib"]
    segments += [("free", spare, FREE)] if spare > 0 else []
    each = f"each of {row['n_gpus']}" if row["n_gpus"] > 1 else "one GPU"
    dark = st.context.theme.type == "dark"
    chart, words = bars.gpu_bar(segments, row["device_gib"], row["available_gib"], dark, "left by others")
    said = " · ".join(f"{name} {size:,.1f}" for name, size, _ in segments)
    st.markdown(f"**GPU memory at the peak, {each}**, GiB: {plain(said)}")
    draw(st.container(), "chart_training", chart, words)


def changes(run: FinetuneScenario, row: FinetuneRow, library: Library) -> None:
    """The cheapest changes after which it fits, or what would still fit, as buttons."""
    st.subheader("What else would fit" if row["fits"] else "What makes it fit, cheapest first", anchor=False)
    found = training_changes(run, row, lambda runs: estimate_finetune(runs, library).rows())
    if not found:
        st.caption("No single change that is tried here fits.")
    for number, item in enumerate(found):
        label = f"**{plain(item.label)}**: {plain(item.effect)}"
        st.button(label, key=f"tchange_{number}", on_click=training.apply, args=(item.update,), width="stretch")


def downloads(row: FinetuneRow, run: FinetuneScenario) -> None:
    """What training tools print, files, and the link to this page."""
    st.subheader("What your tools should print", anchor=False)
    printed = pd.DataFrame({"GiB of one GPU": {label: f"{row[name]:,.1f}" for name, label in PRINTED.items()}})
    st.table(printed.rename_axis("Printed by"))
    with st.container(horizontal=True):
        st.download_button(
            "CSV", lambda: csv_text(COLUMNS, [row]), "finetune.csv", "text/csv", on_click="ignore", key="csv"
        )
        st.download_button(
            "JSON", lambda: json_text([row]), "finetune.json", "application/json", on_click="ignore", key="json"
        )
        with st.popover("Link", key="link"):
            st.caption("The address of this page holds the whole run. To copy:")
            address = urlencode(training.query_of(run), doseq=True, safe="/:,")
            st.code(f"{str(st.context.url or '').split('?')[0]}?{address}", language=None, wrap_lines=True)


run = training.start()
library = own_library()
problems("Does a training step fit these GPUs, and what would make it fit?")
row = estimate_finetune(run, library).rows()[0]
refused = st.session_state.pop(training.REFUSED, "")
if refused:
    st.warning(plain(refused), title="That was not taken", icon=":material/error:")
if row["error"]:
    st.error(plain(row["error"]), title="This cannot be estimated", icon=":material/error:")
else:
    said = training_verdict(row)
    box, icon = BOXES[said.state]
    box(plain(said.sentence), title=plain(said.headline), icon=icon)
    tiles(row)
    memory(row)
with st.sidebar:
    training.sidebar(run, row, library)
if not row["error"]:
    left, right = st.columns([1, 1], gap="large")
    with left:
        changes(run, row, library)
    with right:
        downloads(row, run)
    with st.expander("Formulas and sources", key="training_formulas", on_change="rerun") as fold:
        if fold.open:
            for formula in training_formulas(row):
                st.markdown(f"**{plain(formula.title)}**")
                st.code("\n".join(formula.lines), language=None, wrap_lines=True)
                st.caption(f"Source: {plain(formula.source)} · evidence: {plain(formula.evidence)}")
    st.caption(
        "docs/finetuning.md compares it with published peaks. Activations of image and audio towers are left out."
    )
