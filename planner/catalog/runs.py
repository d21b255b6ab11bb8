"""Calibration runs on disk: read, checked, listed; written once and never changed.

A damaged or foreign file is named and skipped. Runs come from the folder that ships with the planner, from
the user's data folder and from `PLANNER_RUNS_DIR`, each holding `<gpu>/<run id>.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from planner.catalog import paths
from planner.catalog.files import made_folder, parse_json, read_bytes, write_atomically
from planner.catalog.gpus import gpu as known_gpu
from planner.errors import BadFile, PlannerError, UnknownName, first_fault
from planner.specs.gpu import GpuSpec
from planner.specs.run import SCHEMA_VERSION, Run

CHECKOUT = Path(__file__).resolve().parents[2]
RUNS_DIR = "PLANNER_RUNS_DIR"
MAX_RUN_BYTES = 16 * 2**20
SECONDS_PER_DAY = 86400


class Damaged(NamedTuple):
    """A file among the runs that is none, and why."""

    path: Path
    reason: str


class Stored(NamedTuple):
    """A valid run and its file."""

    path: Path
    run: Run


class StoredRuns(NamedTuple):
    """Everything that lies in the folders, newest first."""

    runs: tuple[Stored, ...]
    damaged: tuple[Damaged, ...]


# One run.


def checksum(run: Run) -> str:
    """SHA-256 of the run's canonical JSON without the checksum."""
    text = json.dumps(run.body(), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(run: Run) -> Run:
    """The same run with its checksum set."""
    return run.model_copy(update={"checksum": checksum(run)})


def run_text(run: Run) -> str:
    """The file's text: one point per line, so that a difference can be read."""
    body = sealed(run).body()
    points = ",\n  ".join(json.dumps(point, separators=(", ", ": "), allow_nan=False) for point in body.pop("points"))
    head = json.dumps(body | {"checksum": checksum(run)}, indent=1, allow_nan=False)
    return f'{head[:-2]},\n "points": [\n  {points}\n ]\n}}\n'


def run_from_bytes(data: bytes, where: str = "run") -> Run:
    """A run from a file's bytes. Raises BadFile when it is damaged, of another version, or no run at all."""
    document = parse_json(data, where, MAX_RUN_BYTES)
    if not isinstance(document, dict) or "points" not in document:
        raise BadFile(f"{where}: not a calibration run, as planner calibrate writes it")
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise BadFile(f"{where}: schema version {str(version)[:20]}; this planner reads {SCHEMA_VERSION}")
    try:
        run = Run.model_validate(document)
    except ValidationError as error:
        raise BadFile(f"{where}: {first_fault(error)}") from None
    try:
        age_days(run.created)
    except ValueError:
        raise BadFile(f"{where}: created: {run.created} is no moment") from None
    if run.checksum != checksum(run):
        raise BadFile(f"{where}: its checksum does not match its content; the file was cut or changed")
    return run


def read_run(path: str | Path) -> Run:
    """The run in a file. Raises BadFile."""
    path = Path(path)
    return run_from_bytes(read_bytes(path, MAX_RUN_BYTES), path.name)


def run_path(run: Run, folder: str | Path) -> Path:
    """Where a run lies: `<folder>/<gpu>/<id>.json`."""
    return Path(folder) / run.gpu.replace(":", "-") / f"{run.id}.json"


def write_run(run: Run, folder: str | Path) -> Path:
    """Write a run whole or not at all. Raises BadFile when it exists: runs are only added."""
    path = run_path(run, folder)
    made_folder(path.parent)
    if path.exists():
        raise BadFile(f"{path.name}: exists already; runs are added, never changed")
    write_atomically(path, run_text(run))
    _flush_folder(path.parent)
    return path


def _flush_folder(folder: Path) -> None:
    """Make the new name itself durable; where folders cannot be opened (Windows) the file is there anyway."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def age_days(created: str) -> int:
    """Whole days since a run was made. Raises ValueError for a moment that no calendar has."""
    made = datetime.strptime(created, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return int((datetime.now(UTC) - made).total_seconds() // SECONDS_PER_DAY)


# Many runs.


def user_dir() -> Path:
    """The user's own folder for runs, used when the planner is installed and cannot write beside itself."""
    return paths.user_dir() / "calibration_runs"


def default_dir() -> Path:
    """Where new runs go: `PLANNER_RUNS_DIR`, else a checkout's own folder, else the user's."""
    given = os.environ.get(RUNS_DIR)
    return Path(given) if given else _checkout_dir() or user_dir()


@lru_cache(maxsize=1)
def _checkout_dir() -> Path | None:
    inside = CHECKOUT / "calibration_runs"
    return inside if (CHECKOUT / "pyproject.toml").is_file() and inside.is_dir() else None


def folders() -> tuple[Path, ...]:
    """Where runs are looked for."""
    return tuple(dict.fromkeys((default_dir(), user_dir(), paths.runs_dir())))


def files(folder: Path) -> Iterator[Path]:
    """Run files of one folder, hidden ones and links out of it left aside."""
    if folder.is_dir():
        root = folder.resolve()
        for path in sorted(folder.glob("*/*.json")):
            if not path.name.startswith(".") and path.resolve().is_relative_to(root):
                yield path


@lru_cache(maxsize=1024)
def _read_version(path: str, stamp: tuple[int, int]) -> Run | str:
    try:
        return read_run(path)
    except PlannerError as error:
        return str(error)


def gpu_of(run: Run) -> GpuSpec:
    """The GPU that a run is of. Raises BadFile when no profile here describes it."""
    try:
        return known_gpu(run.gpu)
    except UnknownName:
        raise BadFile(f"{run.id}: its GPU {run.gpu!r} has no profile here, so its points cannot be fitted") from None


def stored_runs(*places: Path) -> StoredRuns:
    """Every run in `places` (default: `folders()`), newest first, and every file that is none."""
    runs: dict[str, Stored] = {}
    damaged = []
    for place in places or folders():
        for path in files(place):
            try:
                stat = path.stat()
            except OSError:
                continue  # gone since it was listed
            read = _read_version(str(path), (stat.st_mtime_ns, stat.st_size))
            if isinstance(read, str):
                damaged.append(Damaged(path, read))
            else:
                runs.setdefault(read.id, Stored(path, read))
    newest_first = sorted(runs.values(), key=lambda stored: (stored.run.created, stored.run.id), reverse=True)
    return StoredRuns(tuple(newest_first), tuple(damaged))


def newest(gpu_id: str, *places: Path) -> Run | None:
    """The newest valid run of a GPU, a full one before a quick one; None when there is none."""
    own = [stored.run for stored in stored_runs(*places).runs if stored.run.gpu == gpu_id]
    return max(own, key=lambda run: (run.mode != "quick", run.created, run.id), default=None)


def run(name: str, *places: Path) -> Stored:
    """A run by its id, a unique beginning of it, or a path. Raises UnknownName or BadFile."""
    if name.endswith(".json") or os.sep in name:
        return Stored(Path(name), read_run(name))
    everything = stored_runs(*places)
    for damaged in everything.damaged:
        if damaged.path.stem == name:
            raise BadFile(damaged.reason)
    like = [stored for stored in everything.runs if stored.run.id.startswith(name)]
    exact = [stored for stored in like if stored.run.id == name]
    if len(exact or like) != 1:
        hint = "planner runs lists all" if not like else f"{len(like)} runs begin so"
        raise UnknownName("run", name, [stored.run.id for stored in everything.runs], hint)
    return (exact or like)[0]
