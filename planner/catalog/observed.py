"""Observations on disk: one small file each, written whole or not at all, checked when they are read.

They lie in `PLANNER_OBSERVATIONS_DIR`, else in the user's data folder. A file's name is the hash of its content, so
that the same result is kept once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from planner.catalog import paths
from planner.catalog.files import made_folder, read_json, write_atomically
from planner.errors import BadFile, PlannerError
from planner.specs.observation import Observation

OBSERVATIONS_DIR = "PLANNER_OBSERVATIONS_DIR"
MAX_FILE_BYTES = 64 * 2**10
MAX_FILES = 2000
Stamp = tuple[str, int] | None


class Kept(NamedTuple):
    """A stored observation and its file."""

    path: Path
    observation: Observation


def default_dir() -> Path:
    """Where observations are kept: `PLANNER_OBSERVATIONS_DIR`, else the user's data folder."""
    if given := os.environ.get(OBSERVATIONS_DIR):
        return Path(given)
    return paths.user_dir() / "observations"


def observation_text(observation: Observation) -> str:
    """The file's text: fields that are set, sorted."""
    body = observation.model_dump(mode="json", exclude_none=True)
    return json.dumps(body, indent=1, sort_keys=True, allow_nan=False) + "\n"


def keep(observation: Observation, folder: str | Path | None = None) -> tuple[Path, bool]:
    """The observation's file in `folder`, and whether it is new. Raises BadFile when it cannot be written."""
    home = Path(folder) if folder else default_dir()
    text = observation_text(observation)
    path = home / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if path.exists():
        return path, False
    made_folder(home)
    if len(_files(home)) >= MAX_FILES:
        raise BadFile(f"{str(home)[:200]}: holds {MAX_FILES} observations, the most that are kept; delete old ones")
    write_atomically(path, text)
    return path, True


def _files(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))[:MAX_FILES]
    return []


def stamp(folder: Path | None = None) -> Stamp:
    """What changes when an observation is added or deleted; None where there is no folder."""
    home = folder or default_dir()
    try:
        return str(home), home.stat().st_mtime_ns
    except OSError:
        return None


@lru_cache(maxsize=16)
def kept(at: Stamp) -> tuple[Kept, ...]:
    """Every valid observation of a stamped folder; a damaged or foreign file is left aside."""
    if at is None:
        return ()
    found = []
    for path in _files(Path(at[0])):
        with contextlib.suppress(PlannerError, ValidationError):
            found.append(Kept(path, Observation.model_validate(read_json(path, MAX_FILE_BYTES))))
    return tuple(found)
