"""Names to profile ids: ids, drivers' names, people's names, in any case, order and punctuation.

A name is reduced to the bag of its words, brands left out: "NVIDIA A100-SXM4-80GB" and "A100 SXM4 80 GB" are
the same. The names of the profiles that ship are kept in `data/gpu_names.json`, so that looking one up
opens no profile; `python -m planner.catalog.gpus` writes that file anew.
"""

from __future__ import annotations

import difflib
import json
import re
from functools import lru_cache

from planner.catalog.files import read_json
from planner.catalog.gpus.profiles import load, profile_ids
from planner.catalog.paths import data_dir
from planner.errors import BadFile, UnknownName
from planner.specs.gpu import Profile

MAX_NAME = 200
_BRANDS = {"nvidia", "geforce", "amd", "radeon", "instinct", "tesla", "intel", "apple", "gpu", "graphics", "r", "tm"}
_SIZE = re.compile(r"\b(\d+)\s*gi?b?\b", re.IGNORECASE)
INDEX = "gpu_names.json"


def reduced(name: str) -> str:
    """The words of a name, letters apart from digits, without brands, sorted."""
    words = re.findall(r"[a-z]+|\d+", name.lower())
    return " ".join(sorted(word for word in words if word not in _BRANDS))


def _all_names(profile: Profile) -> tuple[str, ...]:
    return (profile.id, profile.name, *profile.driver_names, *profile.aliases)


def build_index() -> dict[str, str]:
    """Every name, lower case, to its id. Raises BadFile where two profiles claim one name."""
    index: dict[str, str] = {}
    owners: dict[str, str] = {}
    for profile_id in profile_ids():
        for name in _all_names(load(profile_id)):
            if owners.setdefault(reduced(name), profile_id) != profile_id:
                raise BadFile(f"hardware_profiles: {owners[reduced(name)]} and {profile_id} are both called {name!r}")
            index[name.lower()] = profile_id
    return index


def index_text(index: dict[str, str]) -> str:
    """The index as its file holds it."""
    return json.dumps(index, indent=0, sort_keys=True, ensure_ascii=False) + "\n"


@lru_cache(maxsize=1)
def _names(ids: tuple[str, ...]) -> dict[str, str]:
    """Every name, lower case, to its id: the index, and profiles written after it."""
    names: dict[str, str] = dict(read_json(data_dir() / INDEX))
    for profile_id in sorted(set(ids) - set(names.values())):
        names.update({name.lower(): profile_id for name in _all_names(load(profile_id))})
    return names


@lru_cache(maxsize=1)
def _reduced_names(ids: tuple[str, ...]) -> dict[str, str]:
    return {reduced(name): profile_id for name, profile_id in _names(ids).items()}


@lru_cache(maxsize=4096)
def resolve(name: str) -> tuple[str, str]:
    """(profile id, variant or "") of a name such as `h100-sxm:2g.20gb` or "NVIDIA H200 MIG 3g.71gb".

    A remark in parentheses may be the card ("DGX Spark (GB10)") or be left out ("A100 80GB (330 W)"), unless it
    states a memory size. Raises UnknownName with the nearest known id.
    """
    base, _, variant = re.sub(r"\s+MIG\s+(?=\dg\.)", ":", name.strip()[:MAX_NAME]).partition(":")
    if base in profile_ids():
        return base, variant.strip().lower()
    inside = " ".join(re.findall(r"\(([^()]*)\)", base))
    outside = base if _SIZE.search(inside) else re.sub(r"\([^()]*\)", " ", base)
    for candidate in (base, inside, outside):
        if found := _found(candidate):
            return found[0], variant.strip().lower() or found[1]
    raise UnknownName("GPU", name, _nearest(name.lower()[:MAX_NAME]), "planner gpus lists all")


def _found(name: str) -> tuple[str, str] | None:
    """The profile of this name; a memory size in it must be one that the profile has."""
    names = _reduced_names(profile_ids())
    if profile_id := names.get(reduced(name)):
        return profile_id, ""
    size = _SIZE.search(name)
    profile_id = names.get(reduced(_SIZE.sub(" ", name))) if size else None
    if not size or not profile_id:
        return None
    profile, gigabytes = load(profile_id), float(size[1])
    if profile.label_gb is not None and profile.label_gb.value == gigabytes:
        return profile_id, ""
    return (profile_id, f"{gigabytes:g}gb") if gigabytes in profile.memory_options_gb else None


def _nearest(name: str) -> list[str]:
    """The id whose names come nearest, or that name itself where the id would not be recognised in it."""
    names = _names(profile_ids())
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    ids = [names[found] for found in near]
    return difflib.get_close_matches(name, ids, n=1, cutoff=0.5) or near
