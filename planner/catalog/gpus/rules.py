"""The two rules that complete a profile: its generation, and the memory that a program sees."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

from pydantic import Field

from planner.catalog.files import read_yaml
from planner.catalog.paths import data_dir
from planner.errors import BadValue
from planner.specs.base import Name, Sourced, Spec
from planner.specs.gpu import Profile

CUSTOM = "custom"


class Generation(Spec):
    """An entry of generations.yaml."""

    id: Name
    compute_capability: tuple[float, ...] = ()
    arch: tuple[str, ...] = ()


class Fraction(Sourced):
    """Share of the labelled memory that a program sees."""

    value: Annotated[float, Field(gt=0, le=1)]


class MemoryRule(Spec):
    """An entry of device_memory.yaml; a condition left out always holds."""

    name: Name
    vendor: str | None = None
    unified_memory: bool | None = None
    inline_ecc: bool | None = None
    memory_type: str | None = None  # how the profile's memory_type begins
    up_to_gb: float | None = None  # largest label
    fraction: Fraction
    reserved_gib: Sourced | None = None  # what the driver keeps for itself whatever the size
    cards: tuple[Name, ...] = ()  # whose logs the fraction was taken from

    def applies(self, profile: Profile) -> bool:
        """Whether every stated condition holds for this profile."""
        return (
            self.vendor in (None, profile.vendor)
            and self.unified_memory in (None, profile.unified_memory)
            and self.inline_ecc in (None, profile.inline_ecc)
            and profile.memory_type.startswith(self.memory_type or "")
            and (self.up_to_gb is None or (profile.label_gb is not None and profile.label_gb.value <= self.up_to_gb))
        )


@lru_cache(maxsize=1)
def generations() -> tuple[Generation, ...]:
    """All generations that efficiencies and support may be keyed by."""
    return tuple(Generation(**entry) for entry in read_yaml(data_dir() / "generations.yaml")["generations"])


@lru_cache(maxsize=1)
def memory_rules() -> tuple[MemoryRule, ...]:
    """The rules for visible memory, most specific first; the last one always applies."""
    return tuple(MemoryRule(**entry) for entry in read_yaml(data_dir() / "device_memory.yaml")["rules"])


def generation(profile: Profile, where: str) -> str:
    """The generation that the profile states, or that its compute capability or architecture implies."""
    if profile.generation is not None:
        if profile.generation not in {entry.id for entry in generations()}:
            known = ", ".join(entry.id for entry in generations())
            raise BadValue(f"{where}: generation {profile.generation[:40]!r} is not known; known are {known}")
        return profile.generation
    for entry in generations():
        if profile.compute_capability in entry.compute_capability:
            return entry.id
        if profile.compute_capability is None and profile.arch in entry.arch:
            return entry.id
    return CUSTOM


def memory_rule(profile: Profile) -> MemoryRule:
    """The rule that gives this card's visible memory when no log does."""
    return next(rule for rule in memory_rules() if rule.applies(profile))


def visible_gib(label_gb: float, rule: MemoryRule) -> float:
    """fraction * label - reserved: the box says GB and means GiB, the driver keeps a part for itself."""
    reserved_gib = rule.reserved_gib.value if rule.reserved_gib else 0.0
    return max(rule.fraction.value * label_gb - reserved_gib, label_gb / 2)
