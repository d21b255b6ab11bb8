"""What is taken for granted around a GPU where a scenario does not say: planner/data/host.yaml."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from planner.catalog.files import read_yaml
from planner.catalog.paths import data_dir
from planner.specs.base import Sourced
from planner.units import GB


class Remaining(NamedTuple):
    """Shares of a GPU's full rates that a power limit leaves."""

    compute: Any
    bandwidth: Any


@lru_cache(maxsize=1)
def _data() -> dict[str, Any]:
    return dict(read_yaml(data_dir() / "host.yaml"))


@lru_cache(maxsize=64)
def assumed(name: str) -> Sourced:
    """One figure of the file with its source."""
    return Sourced.model_validate(_data()[name])


def launch_share(gpu_id: str) -> float:
    """Seconds in which hosts of this GPU's boards launch, of those in which hosts that engines were fitted on do."""
    return float(assumed("launch_share").value) if gpu_id in _data()["launch_share_on"] else 1.0


def host_bytes_per_s(bandwidth_gb_per_s: Any = None) -> Any:
    """What products on the CPU attain of the host's memory bandwidth (None: of the assumed one)."""
    nominal = assumed("host_bandwidth_gb_s").value if bandwidth_gb_per_s is None else bandwidth_gb_per_s
    return nominal * GB * assumed("host_bandwidth_attained").value


def pcie_bytes_per_s(link_bytes_per_s: Any = None) -> Any:
    """What copies from host memory attain of a GPU's link (None: of the assumed one)."""
    nominal = assumed("pcie_gb_per_s").value * GB if link_bytes_per_s is None else link_bytes_per_s
    return nominal * assumed("pcie_attained").value


def remaining(limit_w: Any, tdp_w: Any) -> Remaining:
    """What a power limit leaves, by limit / TDP; a limit of nan leaves everything."""
    table = _data()["power_limit"]
    share = np.asarray(limit_w, dtype=float) / tdp_w
    share = np.where(np.isnan(share), 1.0, share)
    return Remaining(*(np.interp(share, table["limit"], table[name]) for name in Remaining._fields))
