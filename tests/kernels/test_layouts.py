"""Number formats and block layouts against published tables and an independent library."""

from __future__ import annotations

import numpy as np
import pytest

from planner.calibration.kernels import gguf, numbers, skinny
from planner.calibration.kernels.problem import Array


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "Q6_K"])
def test_blocks_of_files_mean_what_the_gguf_package_says(name: str) -> None:
    quants = pytest.importorskip("gguf.quants")
    kinds = pytest.importorskip("gguf").GGMLQuantizationType
    blocks = getattr(gguf, name)
    raw = blocks.fill(np.random.default_rng(0), 40 * blocks.size_bytes).reshape(40, -1)
    want = quants.dequantize(raw.copy(), getattr(kinds, name)).reshape(40, gguf.SUPER)
    np.testing.assert_allclose(blocks.decode(raw), want, rtol=1e-6, atol=1e-7)


def test_fp8_has_the_values_of_its_standard() -> None:
    """OCP 8-bit floating point 1.0, table 2: largest, smallest normal, smallest, one, not a number."""
    codes = np.array([0x7E, 0x08, 0x01, 0x38, 0xB8])
    np.testing.assert_array_equal(numbers.e4m3(codes), [448, 2**-6, 2**-9, 1, -1])
    assert np.isnan(numbers.e4m3(np.array([0x7F, 0xFF]))).all()


def test_fp4_has_the_values_of_its_standard() -> None:
    """OCP microscaling formats 1.0, section 5.3.3."""
    np.testing.assert_array_equal(numbers.e2m1(np.arange(8)), [0, 0.5, 1, 1.5, 2, 3, 4, 6])


def test_nf4_has_the_values_of_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    want = functional.get_4bit_type("nf4", device="cpu").numpy()
    np.testing.assert_allclose(numbers.nf4(np.arange(16)), want, rtol=1e-6)


@pytest.mark.parametrize(("x", "bits"), [(1.0, 0x3F80), (1.00390625, 0x3F80), (1.01171875, 0x3F82), (-2.0, 0xC000)])
def test_bf16_rounds_to_nearest_even(x: float, bits: int) -> None:
    assert numbers.to_bf16(np.array([x]))[0] == bits


def test_random_fp8_is_never_infinite_or_not_a_number() -> None:
    for fill in (numbers.any_e4m3, numbers.normal_e4m3):
        assert np.isfinite(numbers.e4m3(fill(np.random.default_rng(0), 4096))).all()


def _packed(codes: Array, bits: int, places: tuple[tuple[int, ...], ...] = ()) -> Array:
    """The layout stated the other way round, value by value: rows (64, 64) -> the words of one block."""
    per_step = bits // 4
    words = np.zeros((4, per_step, 32, 4), np.uint32)
    for row in range(64):
        tile, half, g = row // 16, row % 16 // 8, row % 8
        for k in range(64):
            step, t, pair, j = k // 16, k % 16 // 4, k % 4 // 2, k % 2
            place = j * (16 // bits) + pair * 2 + half if bits == 4 else 2 * j + half
            word = {4: 0, 8: pair, 16: 2 * pair + half}[bits]
            shift = {4: 4 * place, 8: 8 * place, 16: 16 * j}[bits]
            at = step * per_step + word
            code = int(codes[row, k])
            found = code << shift
            if places:
                found = sum((code >> bit & 1) << 16 * (place // 4) + to for bit, to in enumerate(places[place % 4]))
            words[tile, at // 4, g * 4 + t, at % 4] |= np.uint32(found)
    return words.reshape(1, -1)


@pytest.mark.parametrize("weights", [skinny.W16, skinny.E4M3, skinny.INT4, skinny.MXFP4, skinny.NVFP4])
def test_a_block_of_weights_unpacks_to_the_rows_it_was_packed_from(weights: skinny.Weights) -> None:
    codes = np.random.default_rng(weights.bits).integers(0, 2**weights.bits, (64, 64))
    packed = _packed(codes, weights.bits, weights.places)
    np.testing.assert_array_equal(skinny.codes_of(packed, weights), codes)


def test_every_bit_of_a_block_is_some_weight() -> None:
    """Bytes counted for a kernel are bytes that it needs."""
    for weights in skinny.FORMATS:
        assert 128 * weights.bits * 4 == skinny.ROWS * skinny.COLUMNS * weights.bits // 8
