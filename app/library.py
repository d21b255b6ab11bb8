"""Models and GPUs that this session knows: the catalogue's, and those that were uploaded in it."""

from __future__ import annotations

from typing import Any, NamedTuple

import streamlit as st

import defaults
from planner.catalog import gpus, models
from planner.catalog.models import from_upload
from planner.estimate import Library as Brought
from planner.specs.calibration import Calibration
from planner.specs.gpu import GpuSpec
from planner.specs.model import ModelSpec
from planner.specs.quality import QualityResult

STORE = "library"
MAX_UPLOADS = 16  # of each kind in one session; the oldest goes first
MARK = "upload:"  # how names of uploads begin, so that they never hide one of the catalogue


class Library(NamedTuple):
    """Uploaded specs by name and uploaded measurements; every other name is looked up in the catalogue."""

    models: dict[str, ModelSpec]
    gpus: dict[str, GpuSpec]
    checks: tuple[QualityResult, ...] = ()  # of a visitor's own, newest first
    runs: tuple[Calibration, ...] = ()  # fitted to the runs that this visitor uploaded

    def brought(self) -> Brought:
        """What the estimator is given beside the catalogue."""
        return Brought(self.models, self.gpus, self.runs, self.checks)

    def model(self, name: str) -> ModelSpec:
        """The architecture of a name. Raises UnknownName."""
        return self.models.get(name) or models.resolve(name).model

    def gpu(self, name: str) -> GpuSpec:
        """The accelerator of a name. Raises UnknownName."""
        return self.gpus.get(name) or gpus.gpu(name)

    def own_format(self, name: str) -> str | None:
        """The format that a name states or that its publisher released; None: 16 bit."""
        if name in self.models:
            own = self.models[name].quantization
            return own.weight_format if own else None
        found = models.resolve(name)
        return found.weight_format or (found.model.quantization.weight_format if found.model.quantization else None)

    def usual(self, name: str, gpu: GpuSpec, engine: str | None = None) -> dict[str, Any]:
        """Columns that are usual for the model on this GPU."""
        return defaults.usual(self.model(name), self.own_format(name), gpu, engine)


def own_library() -> Library:
    """The session's library."""
    found: Library = st.session_state.setdefault(STORE, Library({}, {}))
    return found


def upload_model(data: bytes, file_name: str) -> str:
    """Keep an uploaded config.json or a spec of `planner import-model`; its name in this session.

    Raises PlannerError with one line.
    """
    stem = _stem(file_name, "model")
    spec = from_upload(file_name[:80], data)
    if stem == "config":  # as every checkpoint calls it
        stem = _stem(f"{spec.model_type or 'model'} with {spec.n_layers} layers", "model").replace(" ", "-")
    _keep(own_library().models, MARK + stem, spec)
    return MARK + stem


def upload_gpu(data: bytes, file_name: str) -> str:
    """Keep an uploaded profile; its name in this session. Raises PlannerError with one line."""
    spec = gpus.gpu_from_profile(data, file_name[:80])
    return keep_gpu(spec, MARK + _stem(spec.name or file_name, "gpu"))


def keep_gpu(spec: GpuSpec, name: str) -> str:
    """Keep a GPU under a name."""
    _keep(own_library().gpus, name, spec.model_copy(update={"id": name, "name": spec.name or name}))
    return name


def keep_check(result: QualityResult) -> None:
    """Keep a quality check's result for this visit."""
    library = own_library()
    st.session_state[STORE] = library._replace(checks=(result, *library.checks)[:MAX_UPLOADS])


def keep_run(found: Calibration) -> None:
    """Use a run's fit for the estimates of this session, before what the planner has of that GPU."""
    library = own_library()
    others = tuple(run for run in library.runs if run.id != found.id)
    st.session_state[STORE] = library._replace(runs=(*others, found)[-MAX_UPLOADS:])


def drop_run(run_id: str) -> None:
    """For callbacks: estimates of this session forget a run."""
    library = own_library()
    st.session_state[STORE] = library._replace(runs=tuple(run for run in library.runs if run.id != run_id))


def _keep(store: dict[str, Any], name: str, spec: Any) -> None:
    store.pop(name, None)
    store[name] = spec
    while len(store) > MAX_UPLOADS:
        store.pop(next(iter(store)))


def _stem(file_name: str, fallback: str) -> str:
    """What of a file's name is plain enough to show."""
    stem = file_name.rsplit("/", 1)[-1].rsplit("\\", 1)[-1].rsplit(".", 1)[0]
    return "".join(c for c in stem if c.isalnum() or c in "-_. ")[:60].strip() or fallback
