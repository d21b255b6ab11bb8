"""Fills the cache of machine code: one of several processes, as NVRTC compiles one program at a time in each.

python -m planner.calibration.kernels.warm 90 < list      # lines of: kernel name, tile name
"""

from __future__ import annotations

import sys

from planner.calibration.kernels.catalogue import kernel_named
from planner.calibration.kernels.compile import CompileError, cubin
from planner.calibration.kernels.problem import Kernel, Tile


def variant(line: str) -> tuple[Kernel, Tile]:
    name, tile_name = line.split()
    kernel = kernel_named(name)
    return kernel, next(tile for tile in kernel.tiles if tile.name == tile_name)


def main(cc: int, lines: list[str]) -> int:
    """How many did not compile; why, the caller finds out when it asks for them."""
    failed = 0
    for line in lines:
        try:
            cubin(*variant(line), cc)
        except CompileError:
            failed += 1
    return failed


if __name__ == "__main__":
    sys.exit(min(1, main(int(sys.argv[1]), sys.stdin.read().splitlines())))
