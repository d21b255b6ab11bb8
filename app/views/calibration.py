"""Calibration: what the speed of a GPU rests on, what was measured on it, and how a run of one's own is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

import calibrating
import runcharts
from answerbox import INPUTS
from calibrating import Known
from drawing import Chart, draw
from planner import explain
from planner.calibration.compare import compared
from planner.catalog import gpus, runs
from planner.catalog.calibrated import Source
from planner.catalog.rates import Evidence
from planner.estimate import Library
from planner.explain import kernels
from planner.explain.kernels import Curve, Matrix
from planner.report import csv_text
from planner.specs.gpu import GpuSpec
from planner.specs.run import Run
from words import EVIDENCE, gpu_choices, gpu_label, plain

MATRICES = {
    "4,096 × 4,096": Matrix(4096, 4096),
    "8,192 × 8,192": kernels.LARGE,
    "28,672 × 8,192": Matrix(28672, 8192),
}
VIEWS = ("Roofline", "Bandwidth", "Formats against batch", "Error of the fit", "Environment", "Two runs")
DRIFT_PERCENT = 5
COMMANDS = """# cu12 with a driver before 580
pip install 'llm-capacity-planner[calibrate,cu13]'
# about 3 minutes; --quick: under 1, a third of the points
planner calibrate"""
MEASURED_HERE = ("", "planner calibrate")  # sources of a run that are no news
FIT = {
    "family": st.column_config.Column("Kernels"),
    "kernel": st.column_config.Column("Measured with"),
    "points": st.column_config.NumberColumn("Points"),
    "t0_us": st.column_config.NumberColumn("Start, µs", format="%.1f"),
    "gb_per_s": st.column_config.NumberColumn("GB/s", format="%.0f"),
    "tflops": st.column_config.NumberColumn("TFLOP/s", format="%.0f"),
    "held_out_median_percent": st.column_config.NumberColumn("Error, median %", format="%.1f"),
    "held_out_p90_percent": st.column_config.NumberColumn("Error, p90 %", format="%.1f"),
}
CHANGES = {
    "family": st.column_config.Column("Kernels"),
    "kernel": st.column_config.Column("Measured with"),
    "points": st.column_config.NumberColumn("Shapes"),
    "median_change_percent": st.column_config.NumberColumn("Time, median %", format="%+.1f"),
    "p10_change_percent": st.column_config.NumberColumn("p10 %", format="%+.1f"),
    "p90_change_percent": st.column_config.NumberColumn("p90 %", format="%+.1f"),
    "drifted": st.column_config.Column("Drifted"),
}


def standing(gpu: GpuSpec, source: Source | None, used: Source | None) -> None:
    """What is shown of this GPU, in a sentence, and whether estimates rest on it."""
    box, icon, words = st.info, ":material/menu_book:", "from published measurements"
    if source is None:
        box, icon, words = st.warning, ":material/description:", "from the datasheet"
        body = "Peaks of the datasheet times what its generation typically attains. A run makes it a measurement."
    elif source.evidence is Evidence.MEASURED:
        box, icon, words = st.success, ":material/check_circle:", "measured"
        days = runs.age_days(source.calibration.created)
        other = used.calibration.id if used and used.calibration.id != source.calibration.id else ""
        rests = f"estimates rest on {other} instead" if other else "estimates of this session rest on it"
        made = source.calibration.source
        how = "" if made in MEASURED_HERE else f" ({made})"
        body = f"Run {source.calibration.id}{how}, {days} day{'' if days == 1 else 's'} old; {rests}."
    elif source.gpu.id != gpu.id:
        words = f"transferred from {source.gpu.name}"
        body = f"Calibration {source.calibration.id}, scaled by the ratio of the two cards' peaks."
    else:
        body = f"Curves fitted to {source.calibration.source or 'published operator measurements'}."
    box(plain(body), title=plain(f"{gpu.name}: {words}"), icon=icon)


def how_to() -> None:
    """What a run gives, and how one is made."""
    st.markdown(
        "**No run of this GPU is known here.** A calibration run measures the card's own kernels: matrix products in "
        "each format, attention, experts, bandwidth, collectives. Estimates of this GPU then rest on these "
        "measurements, and the charts below show them as points. It needs no engine, no weights and no network, and "
        "records no host or user name. On a machine with the GPU, its driver and Python 3.11 or newer:"
    )
    st.code(COMMANDS, language=None, wrap_lines=True)
    st.markdown(
        "It prints where it wrote the run: upload that file in the bar at the left (on this page's own machine it is "
        "used at once). A GPU that is not listed gets a profile of its own."
    )


def tiles(gpu: GpuSpec, source: Source | None) -> None:
    """What the kernels attain, and how well the fit knows."""
    boxes = st.container(horizontal=True)
    for found in kernels.attained(gpu, source):
        scale, unit = (1e9, "GB/s") if found.unit == "B/s" else (1e12, "TFLOP/s")
        share = f"{100 * found.fraction:.0f} % of the datasheet"
        _tile(boxes, found.name, f"{explain.figure(found.per_s / scale)} {unit}", share)
    error = kernels.middle_error_percent(source.calibration) if source else None
    if source and error is not None:
        count = len(source.calibration.families)
        small = f"median of {count} fits" if count > 1 else "one fit"
        _tile(boxes, "Held-back error", f"{error:.1f} %", small)


def _tile(boxes: DeltaGenerator, label: str, value: str, small: str) -> None:
    boxes.metric(label, value, small, delta_color="off", delta_arrow="off", border=True)


def charts(gpu: GpuSpec, source: Source | None, run: Run | None) -> None:
    """One of the views; only the open one is computed."""
    tabs = dict(zip(VIEWS, st.tabs(VIEWS, key="run_views", on_change="rerun"), strict=True))
    points = kernels.readings(run) if run else []
    if tabs["Roofline"].open:
        with tabs["Roofline"]:
            curves = kernels.format_curves(gpu, source, kernels.LARGE)
            peak = kernels.peaks(gpu, "gemm-16")
            _drawn("chart_roofline", *runcharts.roofline(curves, points, *peak))
            _basis(curves)
    elif tabs["Bandwidth"].open:
        with tabs["Bandwidth"]:
            shown = [kernels.weight_read_curve(gpu, source), kernels.stream_curve(gpu, source)]
            _drawn("chart_bandwidth", *runcharts.bandwidth(shown, points, gpu.bandwidth_bytes_per_s))
            _basis(shown)
    elif tabs["Formats against batch"].open:
        with tabs["Formats against batch"]:
            name = st.segmented_control(
                "Weights of one product", list(MATRICES), default="8,192 × 8,192", required=True, key="matrix"
            )
            curves = kernels.format_curves(gpu, source, MATRICES[name or "8,192 × 8,192"])
            _drawn("chart_crossover", *runcharts.crossover(curves, kernels.leads(curves)))
            _basis(curves)
            st.caption("Weight-only formats save bytes, not arithmetic: they win at small batches.")
    elif tabs["Error of the fit"].open:
        with tabs["Error of the fit"]:
            _errors(source)
    elif tabs["Environment"].open:
        with tabs["Environment"]:
            _environment(run)
    elif tabs["Two runs"].open:
        with tabs["Two runs"]:
            _two_runs(gpu, run)


def _drawn(key: str, chart: Chart, words: str) -> None:
    draw(st.container(), key, chart, words)
    st.caption(plain(words))


def _basis(curves: Sequence[Curve]) -> None:
    """What each curve rests on: a calibration need not hold every kernel."""
    levels = {level: [curve.name for curve in curves if curve.evidence == level] for level in EVIDENCE}
    st.caption(". ".join(f"{', '.join(names)}: {EVIDENCE[level]}" for level, names in levels.items() if names) + ".")


def _errors(source: Source | None) -> None:
    if source is None:
        st.caption(
            "The datasheet was fitted to nothing: docs/accuracy.md says how far estimates are off at that level."
        )
        return
    rows = kernels.fit_rows(source.calibration)
    frame = pd.DataFrame(rows)
    st.dataframe(frame, hide_index=True, column_config=FIT, height="content", alt="Rates and errors by kernel family")
    st.caption(
        "Each of five parts of the shapes is predicted by a fit to the others; the error is on what was held back."
    )
    st.download_button(
        "CSV", lambda: csv_text(list(rows[0]) if rows else ["family"], rows), "fit.csv", "text/csv", on_click="ignore",
        key="csv_fit",
    )  # fmt: skip


def _environment(run: Run | None) -> None:
    if run is None:
        st.caption("No run is chosen, so there is no machine to describe.")
        return
    about = run.environment
    flags = sorted({flag.value for point in run.points for flag in point.flags})
    drift = kernels.anchor_drift_percent(run)
    facts: dict[str, Any] = {
        "Run": run.id,
        "Made": run.created,
        "Mode": run.mode.value,
        "Source": run.source,
        "GPU as the driver names it": about.gpu_name,
        "Points with a time": f"{len(run.timed()):,} of {len(run.points):,}",
        "Driver": about.driver,
        "CUDA of torch": about.cuda,
        "torch": about.torch,
        "Power limit, W": about.power_limit_w,
        "ECC": {True: "on", False: "off", None: ""}[about.ecc],
        "MIG slice": about.mig,
        "SM clock before and after, MHz": _pair(about.before.sm_mhz, about.after.sm_mhz),
        "Temperature before and after, °C": _pair(about.before.temperature_c, about.after.temperature_c),
        "A launch": kernels.launches(run),
        "Flags": ", ".join(flags) or "none",
        "Drift of the repeated shape": "" if drift is None else f"{drift:.1f} %",
        "Planner": run.planner_version,
    }
    st.download_button(
        "This run as JSON",
        lambda: runs.run_text(run),
        f"{run.id}.json",
        "application/json",
        on_click="ignore",
        key="json",
    )
    st.table({"": {name: plain(value) for name, value in facts.items() if value not in (None, "")}})


def _pair(before: float | None, after: float | None) -> str:
    return "" if before is None and after is None else f"{explain.figure(before)} → {explain.figure(after)}"


def _two_runs(gpu: GpuSpec, run: Run | None) -> None:
    others = [item for item in calibrating.known_runs(gpu.id) if run is None or item.run.id != run.id]
    if run is None or not others:
        st.caption("Two runs of this GPU are needed: upload a second one, or measure again after a driver's update.")
        return
    other = st.selectbox("Compare with", others, format_func=lambda item: item.label, key="other_run")
    rows = [change._asdict() for change in compared(other.run, run)]
    if not rows:
        st.caption("They have no shape in common.")
        return
    rows = [row | {"drifted": "yes" if abs(row["median_change_percent"]) > DRIFT_PERCENT else ""} for row in rows]
    drifted = sum(bool(row["drifted"]) for row in rows)
    said = (
        f"{drifted} of {len(rows)} kernels drifted by more than {DRIFT_PERCENT} %" if drifted else "No kernel drifted"
    )
    st.markdown(f"**{said}** from {plain(other.run.id)} to {plain(run.id)}; positive: slower.")
    rows.sort(key=lambda row: -abs(row["median_change_percent"]))
    st.dataframe(pd.DataFrame(rows), hide_index=True, column_config=CHANGES, height="content", alt=said)
    st.download_button(
        "CSV", lambda: csv_text(list(rows[0]), rows), "drift.csv", "text/csv", on_click="ignore", key="csv_drift"
    )


def _chosen(gpu: GpuSpec) -> Known | None:
    known = calibrating.known_runs(gpu.id)
    if not known:
        return None
    return st.selectbox("Run", known, format_func=lambda item: item.label, key=f"run_of_{gpu.id}")


def everything() -> None:
    """All runs that are known, and files that are none."""
    known = calibrating.known_runs()
    rows = [
        {
            "Run": item.run.id,
            "GPU": item.run.gpu,
            "Mode": item.run.mode.value,
            "Made": item.run.created,
            "Points": len(item.run.timed()),
            "Driver": item.run.environment.driver,
            "Whose": "uploaded" if item.uploaded else "kept here",
        }
        for item in known
    ]
    if rows:
        st.dataframe(pd.DataFrame(rows), hide_index=True, height="content", alt="All runs that are known here")
    else:
        st.caption("No run of any GPU is known here yet.")
    for damaged in runs.stored_runs().damaged[:20]:
        st.caption(f"Skipped: {plain(damaged.reason)}")


gpu_id = calibrating.start()
library: Library = calibrating.current_library()
gpu = gpus.gpu(gpu_id)
with st.sidebar:
    st.selectbox("GPU", gpu_choices(), key=calibrating.GPU, format_func=lambda name: gpu_label(name, library))
    chosen = _chosen(gpu)
    calibrating.upload()
    refused = st.session_state.get(calibrating.REFUSED)
    if refused:
        st.error(plain(refused), icon=":material/error:")
    if chosen and chosen.uploaded:
        st.button(
            "Forget this run",
            key="forget",
            on_click=calibrating.forget,
            args=(chosen.run.id,),
            icon=":material/delete:",
        )
st.caption(INPUTS)
st.subheader("What the speed of this GPU rests on", anchor=False)
source = calibrating.source_of(gpu, chosen, library)
standing(gpu, source, calibrating.source_of(gpu, None, library))
if chosen is None:
    how_to()
if chosen and (alone := kernels.without_libraries(chosen.run)):
    st.caption(alone)
tiles(gpu, source)
charts(gpu, source, chosen.run if chosen else None)
with st.expander("All runs that are known here", key="all_runs", on_change="rerun") as fold:
    if fold.open:
        everything()
