"""Every kernel in every tile, run thread by thread on the CPU against references in double precision.

With `KERNEL_TARGETS` every tile meets every shape in every split, without it every tile and every other of these.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from conformance import CASES
from conformance import kernel as conformance_kernel
from emulator import Buffers, EmulatedFault, available, error, launch
from shapes import DEVICES, H200, shapes_of

from planner.calibration.kernels.catalogue import KERNELS, kernel_named
from planner.calibration.kernels.problem import Choice, Decode, Gemm, Kernel, Nothing, error_of

pytestmark = pytest.mark.skipif(not available(), reason="needs a C++ compiler")


def _name(item: Any) -> str:
    return str(getattr(item, "name", item))


@pytest.mark.parametrize("kernel", KERNELS, ids=_name)
def test_every_tile_is_right_at_odd_shapes(kernel: Kernel) -> None:
    wrong, tried = [], set()
    step = 1 if "KERNEL_TARGETS" in os.environ else 2
    for number, shape in enumerate(shapes_of(kernel)):
        for place, choice in enumerate(kernel.choices(shape, H200)):
            if choice.tile in tried and (number + place) % step:
                continue
            tried.add(choice.tile)
            found, allowed = error(kernel, choice, shape), kernel.problem(choice, shape).tolerance
            if found > allowed:
                wrong.append((choice.tile.name, choice.splits, shape, found))
    assert not wrong
    assert tried >= set(kernel.tiles_for(H200.cc))


@pytest.mark.parametrize("seed", range(10, 16))
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("w4a16", Gemm(7, 64, 1536)),
        ("mma-bf16", Gemm(8, 64, 2048)),
        ("mma-fp8-block", Gemm(20, 130, 1024)),
        ("decode-fp8", Decode(2, 333, 8, 2, 64)),
    ],
)
def test_results_do_not_depend_on_who_runs_first(name: str, shape: Any, seed: int) -> None:
    kernel = kernel_named(name)
    tile = next(choice.tile for choice in kernel.choices(shape, H200))
    results = []
    for order in (1, seed):
        buffers = Buffers(kernel.problem(Choice(tile, 3), shape), 5)
        launch(kernel, Choice(tile, 3), buffers, order)
        results.append(buffers.arrays["out" if "out" in buffers.arrays else "y"].copy())
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [1, 2])
def test_primitives_do_what_the_instruction_set_says(name: str, seed: int) -> None:
    kernel = conformance_kernel(name)
    choice = Choice(kernel.tiles[0])
    buffers = Buffers(kernel.problem(choice, Nothing()), seed)
    launch(kernel, choice, buffers, seed)
    assert error_of(buffers.problem, buffers.arrays) <= buffers.problem.tolerance


def test_a_kernel_that_reads_past_a_buffer_is_stopped() -> None:
    kernel, shape = kernel_named("w4a16"), Gemm(1, 64, 256)
    choice = kernel.choices(shape, H200)[0]
    problem = kernel.problem(choice, shape)
    longer = tuple(np.int32(512) if item == np.int32(256) else item for item in problem.arguments)
    buffers = Buffers(problem, 1)
    buffers.problem = problem.__class__(**{**problem.__dict__, "arguments": longer})
    with pytest.raises(EmulatedFault, match="out of bounds"):
        launch(kernel, choice, buffers, 1)


@pytest.mark.parametrize("kernel", KERNELS, ids=_name)
def test_there_is_a_way_to_run_every_kernel_on_every_device_it_is_for(kernel: Kernel) -> None:
    for limits in DEVICES:
        for shape in shapes_of(kernel):
            choices = kernel.choices(shape, limits)
            assert bool(choices) == (limits.cc >= kernel.min_cc), (limits, shape)
            assert all(choice.tile.shared_bytes <= limits.shared_bytes for choice in choices)
