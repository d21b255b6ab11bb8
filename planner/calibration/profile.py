"""The GPU that is measured as the catalogue knows it, or a profile written from what the device says of itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from planner.calibration.environment import Card, Driver
from planner.catalog.files import made_folder, write_atomically
from planner.catalog.gpus import gpu, gpu_from_profile, gpu_ids
from planner.catalog.paths import profiles_dir, user_profiles_dir
from planner.errors import BadValue, PlannerError
from planner.specs.gpu import GpuSpec
from planner.units import GB, GIB

MEGA, TERA = 1e6, 1e12
DOUBLE_RATE, BITS = 2, 8  # transfers per memory clock; bits of a byte
SOURCE = "device attributes through NVML"

# Dense FP16 FLOPs with FP32 accumulation per multiprocessor and clock, by compute capability: NVIDIA's architecture
# papers. GeForce cards of Turing, Ampere, Ada and Blackwell accumulate in FP32 at half of it.
FLOPS_PER_CLOCK = {70: 1024, 72: 1024, 75: 1024, 80: 2048, 86: 1024, 87: 1024, 89: 1024, 90: 4096, 100: 8192, 103: 8192}
LATER_FLOPS_PER_CLOCK = 1024  # 12.x
CORES_OF_64 = (60, 70, 72, 75, 80)  # multiprocessors with 64 FP32 cores; the others have 128
BF16_FROM, INT8_FROM, FP8_FROM = 80, 75, 89


class Described(NamedTuple):
    """A GPU as the planner prices it, and its profile where no catalogue held one."""

    spec: GpuSpec
    document: dict[str, Any] | None = None


def describe(card: Card, driver: Driver) -> Described:
    """The card's own entry. Raises BadValue when it is unknown and the driver says too little of it."""
    try:
        name = gpu(card.name).id
    except PlannerError:
        document = attributes(card, driver)
        return Described(gpu_from_profile(document, card.name), document)
    return Described(gpu(f"{name}:{card.mig}" if card.mig else name))


def attributes(card: Card, driver: Driver) -> dict[str, Any]:
    """A profile from clocks, bus width and multiprocessors; its rates are derived, and say so."""
    ask, handle = driver.ask, card.handle
    memory, cores = ask("nvmlDeviceGetMemoryInfo", handle), ask("nvmlDeviceGetNumGpuCores", handle)
    bus, capability = ask("nvmlDeviceGetMemoryBusWidth", handle), ask("nvmlDeviceGetCudaComputeCapability", handle)
    memory_mhz, sm_mhz = (ask("nvmlDeviceGetMaxClockInfo", handle, kind) for kind in (2, 1))
    if not (capability and memory and bus and memory_mhz and sm_mhz and cores):
        raise BadValue(f"{card.name}: unknown, and the driver does not describe it; give a profile (docs/hardware.md)")
    number = 10 * capability[0] + capability[1]
    multiprocessors = cores // (64 if number in CORES_OF_64 else 128)
    per_clock = FLOPS_PER_CLOCK.get(number, LATER_FLOPS_PER_CLOCK) / (2 if "GeForce" in card.name else 1)
    tflops = per_clock * multiprocessors * sm_mhz * MEGA / TERA
    figures = {
        "device_gib": int(memory.total) / GIB,
        "bandwidth_gb_per_s": DOUBLE_RATE * memory_mhz * MEGA * bus / BITS / GB,
        "fp16_tflops": tflops,
        "bf16_tflops": tflops if number >= BF16_FROM else 0,
        "int8_tops": 2 * tflops if number >= INT8_FROM else 0,
        "fp8_tflops": 2 * tflops if number >= FP8_FROM else 0,
        "sm_count": multiprocessors,
    }
    return {
        "id": _free_id(card.name),
        "name": card.name,
        "vendor": "NVIDIA",
        "compute_capability": float(f"{capability[0]}.{capability[1]}"),
        "driver_names": [card.name],
        "notes": ["written by planner calibrate; rates are derived from clocks and multiprocessors"],
        **{name: {"value": round(v, 3), "source": SOURCE, "kind": "derived"} for name, v in figures.items() if v},
    }


def _free_id(name: str) -> str:
    """An id after the card's name that no other profile has."""
    words = re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix("nvidia")).strip("-")[:60] or "gpu"
    taken = set(gpu_ids())
    return next(name for name in (words, *(f"{words}-{i}" for i in range(2, len(taken) + 3))) if name not in taken)


def write_profile(document: dict[str, Any]) -> Path:
    """The profile as YAML where the catalogue finds it: a checkout's own folder, else the user's. Raises BadFile."""
    catalogue = profiles_dir()
    checkout = (catalogue.parent / "pyproject.toml").is_file()
    path = made_folder(catalogue if checkout else user_profiles_dir()) / f"{document['id']}.yaml"
    write_atomically(path, yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    return path
