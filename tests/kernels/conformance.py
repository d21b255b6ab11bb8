"""What the primitives do, stated with NumPy from the PTX ISA's tables: the measure for the emulator and for GPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from planner.calibration.kernels import numbers
from planner.calibration.kernels.problem import Choice, Kernel, Nothing, Operand, Pair, Problem, Role, Tile

Array = Any
LANES, WORDS, RESULTS = 32, 16, 4


def f16_halves(words: Array) -> Array:
    return numbers.fp16(np.ascontiguousarray(words).view(np.uint16))


def bf16_halves(words: Array) -> Array:
    return numbers.bf16(np.ascontiguousarray(words).view(np.uint16))


def floats(words: Array) -> Array:
    return np.ascontiguousarray(words).view(np.float32).astype(np.float64)


def rounded_to_bf16(x: Array) -> Array:
    """Nearest even with eight bits of fraction, in one step from double precision."""
    fraction, exponent = np.frexp(x)
    return np.ldexp(np.rint(fraction * 256) / 256, exponent)


def fragments(words: Array, decode: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Registers of a warp -> A[16, K] and B[K, 8] (PTX ISA, fragments of mma.m16n8k16 and m16n8k32)."""
    values = decode(words[:, :6]).reshape(LANES, 6, -1)
    each = values.shape[2]
    k = 8 * each
    a, b = np.zeros((16, k)), np.zeros((k, 8))
    for lane in range(LANES):
        group, place = divmod(lane, 4)
        for i in range(each):
            for register in range(4):
                a[group + 8 * (register % 2), place * each + i + (register // 2) * (k // 2)] = values[lane, register, i]
            for register in range(2):
                b[place * each + i + register * (k // 2), group] = values[lane, 4 + register, i]
    return a, b


def accumulators(matrix: Array) -> Array:
    """A 16 x 8 matrix as the four registers of each lane."""
    rows = [[lane // 4 + 8 * (i // 2) for i in range(4)] for lane in range(LANES)]
    columns = [[lane % 4 * 2 + i % 2 for i in range(4)] for lane in range(LANES)]
    return matrix[np.array(rows), np.array(columns)]


def from_accumulators(registers: Array) -> Array:
    matrix = np.zeros((16, 8))
    for lane in range(LANES):
        for i in range(4):
            matrix[lane // 4 + 8 * (i // 2), lane % 4 * 2 + i % 2] = registers[lane, i]
    return matrix


def _product(decode: Callable[[Array], Array], read: Callable[[Array], Array]) -> Callable[[Array, Array], Pair]:
    def pair(words: Array, out: Array) -> Pair:
        a, b = fragments(words, decode)
        return read(out), accumulators(a @ b + from_accumulators(read(words[:, 8:12])))

    return pair


def _integers(words: Array) -> Array:
    return np.ascontiguousarray(words).view(np.int32).astype(np.float64)


def _bytes(words: Array) -> Array:
    return np.ascontiguousarray(words).view(np.int8).astype(np.float64)


def _e4m3(words: Array) -> Array:
    return numbers.e4m3(np.ascontiguousarray(words).view(np.uint8))


def _matrices(words: Array, out: Array) -> Pair:
    halves = np.ascontiguousarray(words[:, :4]).view(np.uint16).reshape(4, 8, 8)  # matrix, row, column
    want = [[halves[m, lane // 4, lane % 4 * 2 : lane % 4 * 2 + 2] for m in range(4)] for lane in range(LANES)]
    return np.ascontiguousarray(out).view(np.uint16).astype(float).ravel(), np.array(want, float).ravel()


def _transposed(words: Array, out: Array) -> Pair:
    halves = np.ascontiguousarray(words[:, :4]).view(np.uint16).reshape(4, 8, 8)
    want = [[halves[m, lane % 4 * 2 : lane % 4 * 2 + 2, lane // 4] for m in range(4)] for lane in range(LANES)]
    return np.ascontiguousarray(out).view(np.uint16).astype(float).ravel(), np.array(want, float).ravel()


def _packed(words: Array, out: Array) -> Pair:
    f, b = f16_halves(words[:, :8]).reshape(LANES, 8, 2), bf16_halves(words[:, :8]).reshape(LANES, 8, 2)
    want_f16 = np.stack([f[:, 0] * f[:, 1] + f[:, 2], f[:, 0] - f[:, 1]], axis=1).astype(np.float16)
    want_bf16 = rounded_to_bf16(b[:, 3] * b[:, 4] + b[:, 5])
    got = [f16_halves(out[:, :2]).ravel(), bf16_halves(out[:, 2]).ravel()]
    return np.concatenate(got), np.concatenate([want_f16.astype(float).ravel(), want_bf16.ravel()])


def _converted(words: Array, out: Array) -> Pair:
    x = floats(words[:, 8:11])
    want_f16, want_bf16 = x[:, :2].astype(np.float16), rounded_to_bf16(x[:, :2])
    third = np.stack([x[:, 2].astype(np.float16).astype(float), rounded_to_bf16(x[:, 2])], axis=1)
    both = np.stack([f16_halves(out[:, 2])[::2], bf16_halves(out[:, 2])[1::2]], axis=1)
    got = [f16_halves(out[:, 0]), bf16_halves(out[:, 1]), both.ravel(), floats(out[:, 3])]
    want = [want_f16.astype(float).ravel(), want_bf16.ravel(), third.ravel(), f16_halves(words[:, 0])[::2]]
    return np.concatenate(got), np.concatenate(want)


def _integer(words: Array, out: Array) -> Pair:
    a, b, c = (words[:, i] for i in range(3))
    both = np.concatenate([np.ascontiguousarray(a)[:, None], np.ascontiguousarray(b)[:, None]], axis=1).view(np.uint8)
    chosen = np.stack([both[np.arange(LANES), c >> 4 * i & 7] for i in range(4)], axis=1)
    signs = np.stack([(c >> 4 * i & 8).astype(bool) for i in range(4)], axis=1)
    chosen = np.where(signs, np.where(chosen >> 7, 255, 0), chosen).astype(np.uint8)
    dot = (_bytes(a).reshape(LANES, 4) * _bytes(b).reshape(LANES, 4)).sum(axis=1) + _integers(c)
    wrapped = dot.astype(np.int64).astype(np.int32).astype(np.float64)
    want = [(a & b | c).astype(float), np.ascontiguousarray(chosen).view(np.uint32).ravel().astype(float)]
    exchanged = a[np.arange(LANES) ^ 5].astype(float)
    got = [out[:, 0].astype(float), out[:, 1].astype(float), _integers(out[:, 2]), out[:, 3].astype(float)]
    return np.concatenate(got), np.concatenate([*want, wrapped, exchanged])


def _unsigned(words: Array, out: Array) -> Pair:
    a, b, c = (words[:, i] for i in range(3))
    bytes_of_a = np.ascontiguousarray(a).view(np.uint8).reshape(LANES, 4).astype(float)
    return _integers(out[:, 0]), (bytes_of_a * _bytes(b).reshape(LANES, 4)).sum(axis=1) + _integers(c)


def _power(words: Array, out: Array) -> Pair:
    return floats(out[:, 0]), 2.0 ** floats(words[:, 8])


def _fill(first: Callable[[np.random.Generator, int], Array]) -> Callable[[np.random.Generator, int], Array]:
    """Eight words of one kind, then eight fp32 numbers, per lane."""

    def fill(rng: np.random.Generator, count: int) -> Array:
        words = first(rng, LANES * 8).reshape(LANES, 8)
        numbers32 = (4 * rng.standard_normal((LANES, 8), np.float32)).view(np.uint32)
        return np.concatenate([words, numbers32], axis=1).ravel()

    return fill


def _small_integers(rng: np.random.Generator, count: int) -> Array:
    return rng.integers(0, 2**32, count, dtype=np.uint32) & np.uint32(0x3FFFFFFF)


def _whole(rng: np.random.Generator, count: int) -> Array:
    """Random words throughout, sums too."""
    return rng.integers(0, 2**24, count, dtype=np.uint32)


def _halves(rng: np.random.Generator, count: int) -> Array:
    return numbers.normal_fp16(rng, 2 * count).view(np.uint32)


CASES: dict[str, tuple[int, Any, Callable[[Array, Array], Pair], float]] = {
    "mma-f16": (80, _fill(_halves), _product(f16_halves, floats), 1e-6),
    "mma-bf16": (80, _fill(numbers.normal_words), _product(bf16_halves, floats), 1e-6),
    "mma-s8": (80, _whole, _product(_bytes, _integers), 0.0),
    "mma-e4m3": (89, _fill(numbers.e4m3_words), _product(_e4m3, floats), 1e-3),
    "matrices": (75, _fill(numbers.any_words), _matrices, 0.0),
    "matrices-transposed": (75, _fill(numbers.any_words), _transposed, 0.0),
    "packed": (80, _fill(_halves), _packed, 0.0),
    "converted": (80, _fill(_halves), _converted, 0.0),
    "integer": (75, _fill(_small_integers), _integer, 0.0),
    "power": (75, _fill(numbers.any_words), _power, 1e-6),
    "unsigned": (75, _fill(_small_integers), _unsigned, 0.0),
}


def _problem(name: str) -> Callable[[Choice, Nothing], Problem]:
    _, fill, pair, tolerance = CASES[name]

    def compare(arrays: Mapping[str, Any], part: int) -> Pair:
        return pair(np.asarray(arrays["in"][:]), np.asarray(arrays["out"][:]))

    def problem(choice: Choice, shape: Nothing) -> Problem:
        operands = (
            Operand("in", (LANES, WORDS), "uint32", Role.WARM, fill),
            Operand("out", (LANES, RESULTS), "uint32", Role.OUTPUT),
        )
        return Problem((1, 1, 1), ("in", "out"), operands, 0, 0, 1, compare, tolerance)

    return problem


def kernel(name: str) -> Kernel:
    operation = (("OPERATION", list(CASES).index(name)),)
    tiles = (Tile((), 32, 512),)
    return Kernel(
        name, "conformance", "conform.cu", "conform", CASES[name][0], Nothing, tiles, _problem(name), operation
    )
