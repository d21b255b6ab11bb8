"""Assumptions about the host of a GPU for scenarios that do not state it: planner/data/host.yaml."""

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
    """Time of a kernel launch on hosts of this GPU's boards, relative to the hosts that engines were fitted on."""
    return float(assumed("launch_share").value) if gpu_id in _data()["launch_share_on"] else 1.0


def host_bytes_per_s(bandwidth_gb_per_s: Any = None) -> Any:
    """Bytes/s that products on the CPU attain at this memory bandwidth of the host (None: the assumed one)."""
    nominal = assumed("host_bandwidth_gb_s").value if bandwidth_gb_per_s is None else bandwidth_gb_per_s
    return nominal * GB * assumed("host_bandwidth_attained").value


def pcie_bytes_per_s(link_bytes_per_s: Any = None) -> Any:
    """Bytes/s that copies from host memory attain on this link (None: the assumed one)."""
    nominal = assumed("pcie_gb_per_s").value * GB if link_bytes_per_s is None else link_bytes_per_s
    return nominal * assumed("pcie_attained").value


def remaining(limit_w: Any, tdp_w: Any) -> Remaining:
    """Shares of the full rates under a power limit, from limit / TDP; a limit of nan leaves everything."""
    table = _data()["power_limit"]
    share = np.asarray(limit_w, dtype=float) / tdp_w
    share = np.where(np.isnan(share), 1.0, share)
    return Remaining(*(np.interp(share, table["limit"], table[name]) for name in Remaining._fields))
