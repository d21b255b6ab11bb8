"""What a session brings along: models, GPUs, runs and quality checks that were uploaded in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import streamlit as st

import defaults
from planner.catalog import gpus
from planner.catalog.models import from_upload
from planner.estimate import NO_LIBRARY, Library
from planner.specs.calibration import Calibration
from planner.specs.gpu import GpuSpec
from planner.specs.quality import QualityResult

Kept = TypeVar("Kept")
STORE = "library"
MAX_UPLOADS = 16  # of each kind in one session; the oldest goes first
MARK = "upload:"  # how names of uploads begin, so that they never hide one of the catalogue


def released_format(library: Library, name: str) -> str | None:
    """The format that a model's name states, else that in which its publisher quantized it; None: 16 bit."""
    found = library.resolved(name)
    return found.weight_format or (found.model.quantization.weight_format if found.model.quantization else None)


def usual_columns(library: Library, name: str, gpu: GpuSpec, engine: str | None = None) -> dict[str, Any]:
    """Columns that are usual for the model of a name on this GPU. Raises UnknownName."""
    return defaults.usual(library.model(name), released_format(library, name), gpu, engine)


def own_library() -> Library:
    """The session's library."""
    found: Library = st.session_state.setdefault(STORE, NO_LIBRARY)
    return found


def upload_model(data: bytes, file_name: str) -> str:
    """Keep an uploaded config.json or a spec of `planner import-model`; its name in this session.

    Raises PlannerError with one line.
    """
    stem = _stem(file_name, "model")
    spec = from_upload(file_name[:80], data)
    if stem == "config":  # as every checkpoint calls it
        stem = _stem(f"{spec.model_type or 'model'} with {spec.n_layers} layers", "model").replace(" ", "-")
    library = own_library()
    st.session_state[STORE] = library._replace(models=_with(library.models, MARK + stem, spec))
    return MARK + stem


def upload_gpu(data: bytes, file_name: str) -> str:
    """Keep an uploaded profile; its name in this session. Raises PlannerError with one line."""
    spec = gpus.gpu_from_profile(data, file_name[:80])
    return keep_gpu(spec, MARK + _stem(spec.name or file_name, "gpu"))


def keep_gpu(spec: GpuSpec, name: str) -> str:
    """Keep a GPU under a name."""
    library, named = own_library(), spec.model_copy(update={"id": name, "name": spec.name or name})
    st.session_state[STORE] = library._replace(gpus=_with(library.gpus, name, named))
    return name


def keep_check(result: QualityResult) -> None:
    """Keep a quality check's result for this visit."""
    library = own_library()
    st.session_state[STORE] = library._replace(checks=(result, *library.checks)[:MAX_UPLOADS])


def keep_run(calibration: Calibration) -> None:
    """Use a run's fit for the estimates of this session, before what the planner has of that GPU."""
    library = own_library()
    others = tuple(run for run in library.runs if run.id != calibration.id)
    st.session_state[STORE] = library._replace(runs=(*others, calibration)[-MAX_UPLOADS:])


def drop_run(run_id: str) -> None:
    """For callbacks: estimates of this session forget a run."""
    library = own_library()
    st.session_state[STORE] = library._replace(runs=tuple(run for run in library.runs if run.id != run_id))


def _with(kept: Mapping[str, Kept], name: str, spec: Kept) -> dict[str, Kept]:
    """The uploads of one kind with another, the newest last; the oldest goes."""
    found = {other: one for other, one in kept.items() if other != name} | {name: spec}
    return dict(list(found.items())[-MAX_UPLOADS:])


def _stem(file_name: str, fallback: str) -> str:
    """What of a file's name is plain enough to show."""
    stem = file_name.rsplit("/", 1)[-1].rsplit("\\", 1)[-1].rsplit(".", 1)[0]
    return "".join(c for c in stem if c.isalnum() or c in "-_. ")[:60].strip() or fallback
