"""Prices of a GPU hour that somebody published: examples with provider, date and source, never a quotation."""

from __future__ import annotations

from typing import NamedTuple

from planner.catalog import gpus
from planner.errors import BadValue

MOST_USD = 100_000  # per GPU and hour


class PublishedPrice(NamedTuple):
    """One GPU's price."""

    gpu: str
    usd_per_hour: float
    provider: str
    date: str
    source: str


def prices() -> tuple[PublishedPrice, ...]:
    """Every price of the profiles, the cheapest first."""
    found = ((name, gpus.gpu(name).price) for name in gpus.gpu_ids())
    rows = (PublishedPrice(name, one.usd_per_hour, one.provider, one.date, one.source) for name, one in found if one)
    return tuple(sorted(rows, key=lambda row: row.usd_per_hour))


def checked(usd_per_hour: float, gpu: str) -> float:
    """A price as entered. Raises BadValue for one that is no price."""
    if not 0 < usd_per_hour <= MOST_USD:  # nan too
        raise BadValue(f"price of {gpu[:60]}: {usd_per_hour:g} USD per hour; give one above 0, at most {MOST_USD:,}")
    return usd_per_hour
