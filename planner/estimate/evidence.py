"""Which measurements the speed of a GPU rests on.

In this order: its newest calibration run, its shipped reference, a run or a reference of another GPU of its generation
(scaled by peaks), the datasheet. Runs are fitted once; the fit is kept in memory and in the user's cache folder under
the run's checksum.
"""

from __future__ import annotations

import contextlib
import math
import os
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from planner import __version__
from planner.catalog import runs as catalog
from planner.catalog.calibrated import Source
from planner.catalog.efficiency import is_half_rate
from planner.catalog.files import read_json, write_atomically
from planner.catalog.gpus import gpu as known_gpu
from planner.catalog.rates import Evidence
from planner.catalog.references import reference, reference_ids
from planner.errors import PlannerError
from planner.identity import Same
from planner.specs.calibration import Calibration
from planner.specs.gpu import GpuSpec
from planner.specs.run import Mode, Run

FITS = "fits"
Stamp = tuple[tuple[str, int], ...]  # folders and when they changed


def source_for(gpu: GpuSpec, brought: tuple[Run | Calibration, ...] = (), stamp: Stamp | None = None) -> Source | None:
    """The best source of rates for a GPU; None means the datasheet. Runs or fits that a caller `brought` come first.

    `stamp`: the folders of runs as `folder_stamp` saw them, taken once for many GPUs; None: look now.
    """
    mine = [item for item in brought if item.gpu == gpu.id]
    if mine:
        best = max(mine, key=_rank)
        return _fitted(Same(best), Same(gpu))
    return _stored(Same(gpu), folder_stamp() if stamp is None else stamp)


def _rank(item: Run | Calibration) -> tuple[bool, str, str]:
    return isinstance(item, Calibration) or item.mode is not Mode.QUICK, item.created, item.id


def folder_stamp() -> Stamp:
    """A value that changes when a run is added: the modification times of the folders that hold runs."""
    found = []
    for folder in catalog.folders():
        with contextlib.suppress(OSError):
            found.append((str(folder), folder.stat().st_mtime_ns))
            with os.scandir(folder) as entries:
                found += [(entry.path, entry.stat().st_mtime_ns) for entry in entries if entry.is_dir()]
    return tuple(found)


@lru_cache(maxsize=512)
def _stored(gpu: Same[GpuSpec], stamp: Stamp) -> Source | None:
    own = catalog.newest(gpu.value.id) if stamp else None
    if own is not None:
        return _fitted(Same(own), gpu)
    shipped = reference(gpu.value.id)
    if shipped is not None:
        return Source(shipped, gpu.value, Evidence.REFERENCE)
    return (_of_generation(gpu.value) if stamp else None) or _neighbour(gpu.value)


def _neighbour(gpu: GpuSpec) -> Source | None:
    """The reference of the GPU with the same architecture and kind of memory that is nearest in bandwidth."""
    known = [known_gpu(name) for name in sorted(reference_ids())]
    same = [other for other in known if other.generation == gpu.generation and _kind(other) == _kind(gpu)]
    if not same:
        return None
    nearest = min(same, key=lambda other: abs(math.log(other.bandwidth_bytes_per_s / gpu.bandwidth_bytes_per_s)))
    found = reference(nearest.id)
    return Source(found, nearest, Evidence.REFERENCE) if found else None


def _of_generation(gpu: GpuSpec) -> Source | None:
    """The newest run of a GPU with the same architecture and kind of memory, as a reference."""
    for stored in catalog.stored_runs().runs:
        try:
            other = known_gpu(stored.run.gpu)
        except PlannerError:
            continue  # of a GPU that has no profile here
        if other.generation == gpu.generation and _kind(other) == _kind(gpu):
            return _fitted(Same(stored.run), Same(other))._replace(evidence=Evidence.REFERENCE)
    return None


def _kind(gpu: GpuSpec) -> tuple[str, bool]:
    return gpu.memory_type[:3], is_half_rate(gpu)


@lru_cache(maxsize=64)
def _fitted(measured: Same[Run | Calibration], gpu: Same[GpuSpec]) -> Source:
    fitted = kept_fit(measured.value, gpu.value) if isinstance(measured.value, Run) else measured.value
    return Source(fitted, gpu.value, Evidence.MEASURED, reference(gpu.value.id))


def kept_fit(run: Run, gpu: GpuSpec) -> Calibration:
    """The run's fit, read from the cache folder or made and kept there. A cache that cannot be used is ignored."""
    path = _cache_path(run)
    try:
        kept = Calibration.model_validate(read_json(path))
        if kept.bandwidth_bytes_per_s == gpu.bandwidth_bytes_per_s:
            return kept
    except (PlannerError, ValidationError):
        pass
    from planner.calibration.fit import fit  # here, so that whoever has no runs does not wait for it

    made = fit(run, gpu)
    with contextlib.suppress(PlannerError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, made.model_dump_json())
    return made


def _cache_path(run: Run) -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("llm-capacity-planner") / FITS / f"{run.checksum[:24]}-{__version__}.json"
