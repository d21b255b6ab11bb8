"""What the Calibration page works on: which GPU, which run of it, and runs that a visitor uploads.

An uploaded run is checked, fitted in a process of its own, and stays in the session.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as TooLong
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from typing import NamedTuple

import streamlit as st

from defaults import FIRST_GPU
from library import drop_run, keep_run, own_library
from links import PLAIN_NAME
from planner.calibration.fit import fit
from planner.catalog import gpus, runs
from planner.catalog.calibrated import Source
from planner.catalog.rates import Evidence
from planner.errors import BadFile, PlannerError
from planner.estimate import Library
from planner.estimate.evidence import kept_fit, source_for
from planner.search import follow_parent
from planner.specs.calibration import Calibration
from planner.specs.gpu import GpuSpec
from planner.specs.run import Run
from state import FORM, arrived

RUNS, REFUSED, GPU = "uploaded_runs", "run_refused", "c_gpu"
MOST_POINTS = 3000  # of an uploaded run; the full suite has about 1,200
MOST_RUNS = 8  # of one visitor
FIT_S = 60.0
UPLOAD_MB = 2


class Known(NamedTuple):
    """A run that the page can show, and whose it is."""

    run: Run
    uploaded: bool

    @property
    def label(self) -> str:
        """Its name, its mode, its age, and whose it is."""
        days = runs.age_days(self.run.created)
        place = "uploaded" if self.uploaded else "kept here"
        return f"{self.run.id} · {self.run.mode.value} · {days} days old · {place}"


def start() -> str:
    """The GPU of this visit: the address's, else the one that is planned for."""
    moved = arrived("calibration")
    state = st.session_state
    wanted = st.query_params.get("gpu")
    if GPU not in state or moved:
        form = state.get(FORM)
        usual = form.scenario.gpu if form and form.scenario.gpu in gpus.gpu_ids() else FIRST_GPU
        state[GPU] = wanted if _is_gpu(wanted) else state.get(GPU, usual)
    gpu: str = state[GPU] or FIRST_GPU
    if wanted != gpu:
        st.query_params.from_dict({"gpu": gpu})
    return gpu


def _is_gpu(name: str | None) -> bool:
    return bool(name and PLAIN_NAME.fullmatch(name) and name in gpus.gpu_ids())


def known_runs(gpu_id: str | None = None) -> list[Known]:
    """Runs of a GPU (None: of all), newest first: this visitor's, then those in the planner's folders."""
    own: dict[str, Run] = st.session_state.get(RUNS, {})
    everything = [Known(run, True) for run in own.values()]
    everything += [Known(stored.run, False) for stored in runs.stored_runs().runs if stored.run.id not in own]
    mine = [item for item in everything if gpu_id in (None, item.run.gpu)]
    return sorted(mine, key=lambda item: (item.run.created, item.run.id), reverse=True)


def source_of(gpu: GpuSpec, chosen: Known | None, library: Library) -> Source | None:
    """What the charts show: the chosen run's fit, else what estimates of this session rest on."""
    if chosen is None:
        return source_for(gpu, library.runs)
    own = (item for item in library.runs if isinstance(item, Calibration) and item.id == chosen.run.id)
    return Source(next(own, None) or kept_fit(chosen.run, gpu), gpu, Evidence.MEASURED)


@lru_cache(maxsize=1)
def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=follow_parent)


def fitted(run: Run) -> Calibration:
    """The run's fit, made beside the pages. Raises PlannerError with one line."""
    if len(run.points) > MOST_POINTS:
        raise BadFile(f"{run.id}: {len(run.points):,} points; {MOST_POINTS:,} are read here, `planner runs` reads all")
    gpu = runs.gpu_of(run)
    try:
        return _pool().submit(fit, run, gpu).result(timeout=FIT_S)
    except (TooLong, BrokenProcessPool):
        _pool().shutdown(wait=False, cancel_futures=True)
        _pool.cache_clear()  # the next run gets a process of its own
        raise BadFile(f"{run.id}: its points could not be fitted within {FIT_S:.0f} s") from None


def upload() -> None:
    """The control, and what was wrong with the last file."""
    st.file_uploader(
        "A calibration run (JSON)", type=["json"], key="upload_run", max_upload_size=UPLOAD_MB, on_change=_uploaded,
        help="As `planner calibrate` writes it. It is checked, stays in this session, and is used for its GPU.",
    )  # fmt: skip


def take_waiting() -> None:
    """Fit the file that was just uploaded, with a sign that it is being worked on."""
    run: Run | None = st.session_state.pop("run_waiting", None)
    if run is None:
        return
    try:
        with st.spinner(f"Fitting {len(run.points):,} points"):
            keep_run(fitted(run))
    except PlannerError as error:
        st.session_state[REFUSED] = str(error)
        return
    own: dict[str, Run] = st.session_state.setdefault(RUNS, {})
    own.pop(run.id, None)
    own[run.id] = run
    while len(own) > MOST_RUNS:
        forget(next(iter(own)))


def _uploaded() -> None:
    """For callbacks: check the file; fitting it waits for the page."""
    state = st.session_state
    file = state["upload_run"]
    state[REFUSED] = ""
    if file is None:
        return
    try:
        run = runs.run_from_bytes(file.getvalue(), file.name[:80])
    except PlannerError as error:
        state[REFUSED] = str(error)
        return
    state["run_waiting"] = run
    if run.gpu in gpus.gpu_ids():
        state[GPU] = run.gpu


def forget(run_id: str) -> None:
    """For callbacks: an uploaded run goes."""
    st.session_state.get(RUNS, {}).pop(run_id, None)
    drop_run(run_id)


def current_library() -> Library:
    """The session's library once a waiting upload has been taken."""
    take_waiting()
    return own_library()
