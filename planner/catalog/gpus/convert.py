"""From a profile in its own units to a GpuSpec in SI: the one place where GPU units are converted."""

from __future__ import annotations

import re

from planner.catalog.gpus.rules import generation, memory_rule, visible_gib
from planner.errors import BadValue
from planner.specs.base import Kind
from planner.specs.gpu import RATES, GpuSpec, MigSlice, Profile, Quantity
from planner.units import GB, GIB

_MIB = GIB / 1024
_TERA = 1000 * GB


def _scaled(quantity: Quantity | None, unit: float) -> float | None:
    return None if quantity is None else quantity.value * unit


def _whole(quantity: Quantity | None) -> int | None:
    return None if quantity is None else round(quantity.value)


def device_gib(profile: Profile) -> tuple[float, Kind]:
    """Memory that a program sees (GiB), and whether a log or the rule of the memory type says so."""
    if profile.device_gib is not None:
        return profile.device_gib.value, profile.device_gib.kind
    assert profile.label_gb is not None  # profiles.parse refuses a profile with neither
    return visible_gib(profile.label_gb.value, memory_rule(profile)), Kind.DERIVED


def spec(profile: Profile, where: str) -> GpuSpec:
    """The whole GPU in SI units. Raises BadValue for a generation that is not known."""
    seen_gib, kind = device_gib(profile)
    rates = {math: getattr(profile, key).value * _TERA for math, key in RATES.items() if getattr(profile, key)}
    return GpuSpec(
        id=profile.id,
        name=profile.name or profile.id,
        vendor=profile.vendor,
        arch=profile.arch,
        generation=generation(profile, where),
        compute_capability=profile.compute_capability,
        form_factor=profile.form_factor,
        memory_type=profile.memory_type,
        label_bytes=_scaled(profile.label_gb, GB) or seen_gib * GIB,
        device_bytes=seen_gib * GIB,
        device_bytes_kind=kind.value,
        bandwidth_bytes_per_s=profile.bandwidth_gb_per_s.value * GB,
        flops_per_s=rates,
        sm_count=_whole(profile.sm_count),
        l2_bytes=_scaled(profile.l2_mib, _MIB),
        link_bytes_per_s=_scaled(profile.link_gb_per_s, GB),
        link_gpus=_whole(profile.link_gpus),
        link_apart=profile.link_apart,
        pcie_bytes_per_s=_scaled(profile.pcie_gb_per_s, GB),
        tdp_w=_scaled(profile.tdp_w, 1),
        unified_memory=profile.unified_memory,
        inline_ecc=profile.inline_ecc,
        price=profile.price,
    )


def variants(profile: Profile) -> tuple[str, ...]:
    """What may follow the colon of this GPU's name: its MIG slices, or the memory sizes it is sold with."""
    slices = profile.mig.slices if profile.mig else ()
    return tuple(one.name for one in slices) + tuple(f"{size:g}gb" for size in profile.memory_options_gb)


def variant_spec(profile: Profile, variant: str, where: str) -> GpuSpec:
    """A MIG slice or a memory size of this GPU. Raises BadValue that lists the valid ones."""
    known = variants(profile)
    if variant not in known:
        listed = f"known are {', '.join(known)}" if known else "it has none"
        raise BadValue(f"GPU '{profile.id}' has no slice or memory size {variant[:40]!r}; {listed}")
    if not re.fullmatch(r"[\d.]+gb", variant):
        return _slice_spec(profile, next(one for one in profile.mig.slices if one.name == variant), where)  # type: ignore[union-attr]
    label = Quantity(value=float(variant[:-2]), source="a memory size it is sold with", kind=Kind.DATASHEET)
    sized = profile.model_copy(update={"label_gb": label, "device_gib": None, "nvml_gib": None})
    return spec(sized, where).model_copy(update={"id": f"{profile.id}:{variant}"})


def _slice_spec(profile: Profile, part: MigSlice, where: str) -> GpuSpec:
    """A slice: its memory slices' share of capacity, bandwidth and L2, its SMs' share of the rates; no links."""
    whole = spec(profile, where)
    assert profile.mig is not None and whole.sm_count is not None
    memory = part.memory_slices / profile.mig.memory_slices
    compute = part.sm_count / whole.sm_count
    return whole.model_copy(
        update={
            "id": f"{profile.id}:{part.name}",
            "name": f"{whole.name} MIG {part.name}",
            "label_bytes": whole.label_bytes * memory,
            "device_bytes": part.device_gib * GIB if part.device_gib else whole.device_bytes * memory,
            "device_bytes_kind": (Kind.MEASURED if part.device_gib else Kind.DERIVED).value,
            "bandwidth_bytes_per_s": whole.bandwidth_bytes_per_s * memory,
            "flops_per_s": {math: rate * compute for math, rate in whole.flops_per_s.items()},
            "sm_count": part.sm_count,
            "l2_bytes": None if whole.l2_bytes is None else whole.l2_bytes * memory,
            "link_bytes_per_s": None,
            "link_gpus": None,
            "price": None,
            "mig": part.name,
        }
    )
