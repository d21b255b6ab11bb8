"""Buffers that a rotation reads: whole blocks in every copy, aligned as allocations are, filled from a pool."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner.calibration.graphs import RIGHT_ONCE, TRIED, small_shapes
from planner.calibration.kernels.catalogue import KERNELS, kernel_named
from planner.calibration.kernels.launch import ALIGN_BYTES, POOL_VALUES, Launcher, stride_of, unit_of
from planner.calibration.kernels.problem import DeviceLimits, Fixed, Gemm, Grouped, InBlocks, Kernel, Operand, Role

CARDS = (
    DeviceLimits(80, 108, 166912, 40 << 20),
    DeviceLimits(90, 132, 232448, 50 << 20),
    DeviceLimits(120, 188, 101376, 128 << 20),
)
SHAPES: dict[type[Any], Any] = {Gemm: Gemm(8, 16384, 8192), Grouped: Grouped(32, 768, 2048, 128, 8)}


def operands(kernel: Kernel) -> list[Operand]:
    shapes = [SHAPES[kernel.shape]] if kernel.shape in SHAPES else list(small_shapes(kernel))[:1]
    found = [kernel.problem(choice, shape) for shape in shapes for choice in kernel.choices(shape, CARDS[1])[:1]]
    return [operand for problem in found for operand in problem.operands]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_blocks_begin_where_copies_and_pools_begin(kernel: Kernel) -> None:
    for operand in operands(kernel):
        if isinstance(operand.fill, InBlocks):
            unit = unit_of(operand.fill)
            assert operand.length % unit == 0 and operand.shape[-1] % unit == 0
            assert stride_of(operand, unit) % unit == 0 and POOL_VALUES // unit > 1


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_copies_lie_apart_as_allocations_do_and_waste_little(kernel: Kernel) -> None:
    for operand in operands(kernel):
        if operand.role is Role.COLD and operand.fill and not isinstance(operand.fill, Fixed):
            width = np.dtype(operand.dtype).itemsize
            stride = stride_of(operand, unit_of(operand.fill))
            assert stride >= operand.length and stride * width % ALIGN_BYTES == 0
            assert (stride - operand.length) * width <= 2**17


@pytest.mark.parametrize("limits", CARDS, ids=lambda limits: str(limits.cc))
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_every_tile_has_a_small_shape_at_which_it_is_checked(kernel: Kernel, limits: DeviceLimits) -> None:
    if kernel.name in RIGHT_ONCE:
        return
    offered = {choice.tile for shape in small_shapes(kernel) for choice in kernel.choices(shape, limits)}
    assert {tile for tile in kernel.tiles_for(limits.cc) if tile.shared_bytes <= limits.shared_bytes} <= offered


def test_few_variants_are_tried() -> None:
    assert TRIED < 20


class TestOnTheCpu:
    """The same buffers made by torch on the CPU."""

    @staticmethod
    def launcher() -> Launcher:
        torch = pytest.importorskip("torch")
        found = object.__new__(Launcher)
        found.torch, found.target, found._pools = torch, torch.device("cpu"), {}
        return found

    @pytest.mark.parametrize("name", ["gguf-q4_k", "gguf-q6_k", "gguf-q8_0"])
    def test_scales_of_every_copy_are_small_numbers(self, name: str) -> None:
        kernel = kernel_named(name)
        weights = next(operand for operand in operands(kernel) if operand.name == "weights")
        assert weights.length > POOL_VALUES and isinstance(weights.fill, InBlocks)
        at = {144: 0, 210: 208, 34: 0}[weights.fill.unit]
        for copy in self.launcher()._tensors(weights, 3):
            blocks = copy.reshape(-1, weights.fill.unit)[:, at : at + 2].contiguous().numpy().view("<f2")
            assert np.all((blocks > 0) & (blocks < 0.002))

    def test_keys_and_values_differ_and_so_do_copies(self) -> None:
        found = {operand.name: operand for operand in operands(kernel_named("decode-bf16"))}
        launcher = self.launcher()
        keys, values = (launcher._tensors(found[name], 2) for name in ("keys", "values"))
        assert not (keys[0] == values[0]).all() and not (keys[0] == keys[1]).all()
        assert (
            keys[0].shape == found["keys"].shape
            and keys[1].data_ptr() % ALIGN_BYTES == keys[0].data_ptr() % ALIGN_BYTES
        )

    def test_what_is_not_random_stays_as_it_is(self) -> None:
        tables = next(operand for operand in operands(kernel_named("decode-bf16")) if operand.name == "tables")
        assert isinstance(tables.fill, Fixed)
        (made,) = self.launcher()._tensors(tables, 1)
        assert np.array_equal(made.numpy().ravel(), tables.fill.values.ravel())
