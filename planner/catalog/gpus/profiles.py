"""Profiles as files: which there are, and one of them read and checked."""

from __future__ import annotations

import difflib
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from planner.catalog.files import parse_yaml, read_yaml
from planner.catalog.paths import profiles_dir, user_profiles_dir
from planner.errors import BadFile
from planner.specs.gpu import QUANTITIES, RATES, Profile


def _folders() -> tuple[Path, Path]:
    """Profiles that ship, and the user's own: of cards that `planner calibrate` met and none described."""
    return profiles_dir(), user_profiles_dir()


def profile_ids() -> tuple[str, ...]:
    """Ids of all profiles, sorted; the file of one is named after it, and seen as soon as it is written."""
    return _ids(tuple((folder, _changed_ns(folder)) for folder in _folders()))


def _changed_ns(folder: Path) -> int:
    """When a file was last added or taken away; 0: no such folder."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=1)
def _ids(folders: tuple[tuple[Path, int], ...]) -> tuple[str, ...]:
    return tuple(sorted({path.stem for folder, _ in folders for path in folder.glob("*.yaml")}))


@lru_cache(maxsize=256)
def load(profile_id: str) -> Profile:
    """The profile of a known id, checked."""
    shipped, own = (folder / f"{profile_id}.yaml" for folder in _folders())
    if own.is_file() and not shipped.is_file():
        return parse(read_yaml(own), str(own))
    return parse(read_yaml(shipped), f"hardware_profiles/{profile_id}.yaml")


def parse(document: Any, where: str) -> Profile:
    """A profile from a document already parsed, or from YAML bytes.

    Raises BadFile with one line that names the field at fault.
    """
    if isinstance(document, bytes):
        document = parse_yaml(document, where)
    if not isinstance(document, dict):
        raise BadFile(f"{where}: a profile is a mapping of fields, such as 'bandwidth_gb_per_s: 1008'")
    try:
        found = Profile.model_validate(document)
    except ValidationError as error:
        raise BadFile(f"{where}: {_first_fault(error)}") from None
    _check_complete(found, where)
    return found


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_context=False)[0]
    path = [str(part)[:60] for part in fault["loc"]] or ["?"]
    field = ".".join(path)
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], list(Profile.model_fields), n=1)
        return f"unknown field {field!r}" + (f"; did you mean '{near[0]}'?" if near and len(path) == 1 else "")
    if fault["type"] == "missing":
        return f"{field} is missing"
    if fault["type"] == "model_type" and path[-1] in QUANTITIES:
        return f"{field}: a number, or value, source and kind, expected (got {str(fault['input'])[:40]!r})"
    return f"{field}: {fault['msg'][:1].lower()}{fault['msg'][1:160]} (got {str(fault['input'])[:40]!r})"


def _check_complete(profile: Profile, where: str) -> None:
    if profile.label_gb is None and profile.device_gib is None:
        raise BadFile(f"{where}: label_gb is missing (or device_gib, what cudaMemGetInfo reports as total)")
    if all(getattr(profile, key) is None for key in RATES.values()):
        raise BadFile(f"{where}: bf16_tflops is missing (or another rate: {', '.join(RATES.values())})")
    if profile.mig is not None and profile.sm_count is None:
        raise BadFile(f"{where}: sm_count is missing, and the slices in mig need it")
