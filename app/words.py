"""Words that pages share: labels of choices, plain text inside markdown, and one-line errors."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import streamlit as st

from library import MARK
from planner.catalog import engines, gpus, models
from planner.catalog.repositories import repositories
from planner.catalog.runs import age_days
from planner.catalog.uncertainty import NOT_VALIDATED
from planner.estimate import Library
from planner.explain import format_name
from planner.specs.formats import Level
from planner.units import GIB

LEVELS = {
    Level.NATIVE: "native",
    Level.WEIGHT_ONLY: "weights only",
    Level.EMULATED: "unpacked, saves nothing",
    Level.UNSUPPORTED: "not supported here",
    Level.UNKNOWN: "not confirmed",
}
EVIDENCE = {
    "measured": "measured on this GPU",
    "reference": "from published measurements",
    "datasheet": "from the datasheet",
    "observed": "engine overhead observed",
    "transferred": "engine overhead from other runs of this engine",
    "assumed": "engine overhead assumed",
}
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$:!&])")
_LINKED = re.compile(r"(https?:|www(?=\.)|@)", re.IGNORECASE)  # what markdown makes a link of, escaped or not
_RUN = re.compile(r"(\d{4})(\d\d)(\d\d)t(\d\d)(\d\d)(\d\d)z-", re.ASCII)
_JOINER = "\u2060"  # takes no room and is no part of a link
COMMON_GPUS = tuple(
    "h100-sxm h200-sxm b200 a100-80-sxm l40s l4 a10g rtx4090 rtx5090 rtx3090 rtxpro6000 mi300x gb10 "
    "apple-m4-max".split()
)


def plain(text: object) -> str:
    """Text that markdown shows as it is: no links, images, formulas or directives come out of it."""
    return _SPECIAL.sub(r"\\\1", _LINKED.sub(rf"\1{_JOINER}", str(text).replace("\n", " ")))


@lru_cache(maxsize=1)
def _sizes() -> dict[str, str]:
    return {entry.id: size(entry.parameters, entry.active_parameters) for entry in models.model_index()}


def size(parameters: int, active: int) -> str:
    """671 B, 37 B active."""
    scale, unit = next(((s, u) for s, u in ((1e12, "T"), (1e9, "B")) if parameters >= s), (1e6, "M"))
    most = f"{parameters / scale:.3g} {unit}"
    return f"{most}, {active / 1e9:.2g} B active" if active < 0.8 * parameters else most


def model_label(name: str) -> str:
    """A model as people write it, its size where the list knows it, and its repository: what is typed finds either."""
    if name.startswith(MARK):
        return f"{name.removeprefix(MARK)} (uploaded)"
    spoken = name.rpartition("/")[2].replace("-", " ").replace("_", " ")
    return " · ".join(part for part in (spoken, _sizes().get(name), name) if part)


def gpu_label(name: str, library: Library) -> str:
    """A GPU with the memory that programs see."""
    spec = library.gpu(name)
    slice_ = f", {spec.mig}" if spec.mig else ""
    return f"{spec.name.removeprefix(MARK)}{slice_} · {spec.device_bytes / GIB:.0f} GiB"


def gpu_choices() -> tuple[str, ...]:
    """Ids of all GPUs: the common ones first, then by name."""
    return _common_first(gpus.gpu_ids())


@lru_cache(maxsize=1)
def _common_first(ids: tuple[str, ...]) -> tuple[str, ...]:
    rest = (name for name in ids if name not in COMMON_GPUS)
    return COMMON_GPUS + tuple(sorted(rest, key=lambda name: gpus.gpu(name).name.lower()))


@lru_cache(maxsize=1)
def model_choices() -> tuple[str, ...]:
    """Ids of all models and the other repository names that stand for one."""
    return tuple(sorted({*models.model_ids(), *repositories()}, key=lambda name: name.rpartition("/")[2].lower()))


def action(label: str) -> str:
    """The label of a filled button: white in the light theme, black on the lighter blue of the dark one.

    White on that blue would be 2.9:1; a blue dark enough for white could not be read where it is the ink.
    """
    return label if st.context.theme.type != "dark" else f':color[{label}]{{foreground="#000"}}'


def engine_label(name: str) -> str:
    """An engine with the newest version known."""
    spec = engines.engine(name)
    return f"{spec.name} {spec.version}" if spec.id != "none" else "own runner, no engine"


def format_label(name: str, found: Level) -> str:
    """A format with how the engine runs it on the GPU."""
    return f"{format_name(name)} · {LEVELS[found]}"


def _age(run_id: str) -> str:
    """How old a run is, by the time that its name holds."""
    stamp = _RUN.match(run_id)
    if stamp is None:
        return ""
    year, month, day, *_ = stamp.groups()
    try:
        days = age_days(f"{year}-{month}-{day}T{stamp[4]}:{stamp[5]}:{stamp[6]}Z")
    except ValueError:  # a name of somebody's own
        return ""
    return f", {days} day{'' if days == 1 else 's'} old"


def evidence(row: dict[str, Any]) -> str:
    """What the figures of a row rest on, in a line."""
    of_memory, of_speed = (EVIDENCE.get(row[f"{name}_evidence"], "") for name in ("memory", "speed"))
    words = [f"memory {of_memory}", f"speed {of_speed}" if of_speed else ""]
    words = [f"memory and speed {of_memory}"] if of_memory == of_speed else words
    if row["calibration_id"] and row["speed_evidence"] != "datasheet":
        words[-1] += f" ({row['calibration_id']}{_age(row['calibration_id'])})"
    engine = EVIDENCE.get(row["engine_evidence"], "")
    if row["observations"]:
        engine += f" {row['observations']} times, steps x {row['observed_decode_factor']:.2f}"
    elif row["engine_validation"] == NOT_VALIDATED:
        engine += ". Not validated: too few runs of this engine on such GPUs were measured to check it"
    return ", ".join(filter(None, [*words, engine]))
