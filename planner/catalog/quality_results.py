"""Results of the user's own quality checks on disk: one small file each in the user's data folder, newest first.

A damaged or foreign file is named and skipped. Nothing of the examples, the endpoints or their keys is in a result.
"""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from planner.catalog import paths
from planner.catalog.files import made_folder, parse_json, read_bytes, write_atomically
from planner.errors import BadFile, first_fault
from planner.specs.quality import QualityResult

RESULTS_DIR = "PLANNER_QUALITY_DIR"
MAX_RESULT_BYTES = 16 * 2**10
MOST_RESULTS = 1000


class StoredResults(NamedTuple):
    """What lies in the folder: results, newest first, and a line for every file that is none."""

    results: tuple[QualityResult, ...]
    damaged: tuple[str, ...]


def results_dir() -> Path:
    """Where results are kept: `PLANNER_QUALITY_DIR`, else the user's data folder."""
    given = os.environ.get(RESULTS_DIR)
    return Path(given) if given else paths.user_dir() / "quality_results"


def new_id() -> tuple[str, datetime]:
    """An id that no other result has and sorts by time, and that time."""
    made = datetime.now(UTC).replace(microsecond=0)
    return f"{made:%Y%m%dt%H%M%Sz}-{secrets.token_hex(4)}", made


def result_from_bytes(data: bytes, where: str = "result") -> QualityResult:
    """A result from a file's bytes. Raises BadFile when it is none."""
    document = parse_json(data, where, MAX_RESULT_BYTES)
    try:
        return QualityResult.model_validate(document)
    except ValidationError as error:
        raise BadFile(f"{where}: no result of a quality check ({first_fault(error)})") from None


def keep(result: QualityResult, folder: Path | None = None) -> Path:
    """Write a result, whole or not at all; its file. Raises BadFile when the folder is full or not writable."""
    home = made_folder(folder or results_dir())
    if len(_files(home)) >= MOST_RESULTS:
        raise BadFile(f"{str(home)[:200]} holds {MOST_RESULTS} results already; remove some")
    path = home / f"{result.id}.json"
    write_atomically(path, result.model_dump_json(indent=1, exclude_none=True) + "\n")
    return path


def stored_results(folder: Path | None = None) -> StoredResults:
    """All results that are kept, newest first; a folder that is missing holds none."""
    results: list[QualityResult] = []
    damaged: list[str] = []
    for path in _files(folder or results_dir())[:MOST_RESULTS]:
        try:
            results.append(result_from_bytes(read_bytes(path, MAX_RESULT_BYTES), path.name))
        except BadFile as error:
            damaged.append(str(error))
    results.sort(key=lambda one: (one.made, one.id), reverse=True)
    return StoredResults(tuple(results), tuple(damaged))


def _files(folder: Path) -> list[Path]:
    """Result files of the folder, links aside, newest ids first."""
    try:
        inside = list(folder.iterdir()) if folder.is_dir() else []
    except OSError:
        return []
    return sorted((p for p in inside if p.suffix == ".json" and not p.is_symlink()), reverse=True)
