"""Accelerators by name: what the rest of the planner imports from this package."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from planner.catalog.files import read_yaml
from planner.catalog.gpus.convert import spec, variant_spec
from planner.catalog.gpus.names import resolve
from planner.catalog.gpus.profiles import load, parse, profile_ids
from planner.specs.gpu import GpuSpec, Profile


def gpu(name: str) -> GpuSpec:
    """The accelerator of an id, a driver's or a person's name, a slice (`h100-sxm:2g.20gb`), or a YAML file.

    Raises UnknownName (with the nearest known), BadValue for a slice that it does not have, BadFile for a file.
    """
    return _from_file(name, *_state(name)) if name.lower().endswith((".yaml", ".yml")) else _gpu(name)


def _state(path: str) -> tuple[int, int]:
    """What changes when a file does: time of change and size; zeros when it cannot be read."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return 0, 0
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=64)
def _from_file(path: str, changed_ns: int, size_bytes: int) -> GpuSpec:
    return gpu_from_profile(read_yaml(path), Path(path).name)


@lru_cache(maxsize=1024)
def _gpu(name: str) -> GpuSpec:
    profile_id, variant = resolve(name)
    where = f"hardware_profiles/{profile_id}.yaml"
    return variant_spec(load(profile_id), variant, where) if variant else spec(load(profile_id), where)


def gpu_ids() -> tuple[str, ...]:
    """Ids of all profiles, sorted."""
    return profile_ids()


def profile(name: str) -> Profile:
    """All figures of an accelerator with their sources, and what other sources say. Raises UnknownName."""
    return load(resolve(name)[0])


def gpu_from_profile(document: dict[str, Any] | bytes, where: str) -> GpuSpec:
    """An accelerator from a user's profile (parsed, or YAML bytes); `where` names it in errors.

    Raises BadFile or BadValue with one line that names the field.
    """
    return spec(parse(document, where), where)
