"""What torch runs beside the bundled kernels: products by cuBLASLt, grouped ones, prompts' attention, elementwise ones.

A workload is a function of a copy's number that launches one call on the current stream. Weights are slices
of one pool of random bytes at distinct offsets, so that a point costs no time to fill.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from planner.calibration.cases import Case
from planner.calibration.graphs import Graph
from planner.calibration.suite import grouped_parts
from planner.calibration.timing import OutOfMemory, Unsupported
from planner.specs.run import AttentionShape, ExpertShape, GemmShape, StreamShape

Call = Callable[[int], Any]
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp8": "float8_e4m3fn", "int8": "int8"}
POOL_SHARE = 0.3  # of the memory that is free at the start, for 16-bit values; half as much for bytes
CHUNK, PAGE = 2**28, 4096
POOL_MOST = 24 * 2**30
ALIGN = 256  # values
SCALE = 0.02  # of random weights: products stay in range
BYTE_SCALE = 8.0  # of FP8 weights, as scaled tensors hold them: near zero they would draw less power
EPSILON = 1e-6
ROW = 4096  # values that one normalisation spans
LONG_PROMPT, TRIALS = 1024, 3  # tokens from which attention decides


class Pool:
    """Random values of one type on the GPU that every cold operand is a slice of."""

    def __init__(self, torch: Any, device: Any, dtype: Any, size_bytes: int) -> None:
        self.torch, self.device = torch, device
        scale = BYTE_SCALE if dtype.itemsize == 1 else SCALE
        generator = torch.Generator(device=device).manual_seed(0)
        self.values = torch.empty(size_bytes // dtype.itemsize, dtype=dtype, device=device)
        for start in range(0, self.values.numel(), CHUNK):
            part = self.values[start : start + CHUNK]
            part.copy_(torch.randn(part.numel(), generator=generator, device=device, dtype=torch.float32) * scale)

    def take(self, shape: tuple[int, ...], dtype: Any, copy: int, copies: int) -> Any:
        """The copy's own part of the pool as a tensor. Raises OutOfMemory when the copies do not fit side by side."""
        count = 1
        for extent in shape:
            count *= extent
        size = -(-count // ALIGN) * ALIGN
        if size * copies > self.values.numel():
            raise OutOfMemory
        return self.values[copy * size : copy * size + count].view(dtype).reshape(shape)


class Pools(NamedTuple):
    """One for 16-bit types, one for bytes: FP8 codes of random numbers, which are whole numbers too."""

    half: Pool
    byte: Pool

    def of(self, dtype: Any) -> Pool:
        return self.byte if dtype.itemsize == 1 else self.half

    @property
    def device(self) -> Any:
        return self.half.device


def pools(torch: Any, device: Any, half: str, free_bytes: int) -> Pools:
    """Pools in the memory that is free."""
    size = min(POOL_MOST, int(POOL_SHARE * free_bytes)) // PAGE * PAGE
    byte = getattr(torch, "float8_e4m3fn", torch.int8)
    return Pools(Pool(torch, device, getattr(torch, DTYPES[half]), size), Pool(torch, device, byte, size // 2))


def _random(torch: Any, device: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    if dtype.is_floating_point:
        return torch.randn(shape, device=device, dtype=torch.float32).to(dtype)
    return torch.randint(-64, 64, shape, device=device, dtype=torch.int32).to(dtype)


def products(torch: Any, pool: Pools, case: Case, copies: int) -> Call:
    """torch.mm, torch._scaled_mm or torch._int_mm: Y = X W^T, the weights a different slice in every call.

    FP8 sums as engines do, in the tensor cores alone (torch's default adds them up outside, which is slower on Hopper).
    """
    shape = case.shape
    assert isinstance(shape, GemmShape)
    dtype = getattr(torch, DTYPES[case.dtype])
    device = pool.device
    inputs = _random(torch, device, (shape.m, shape.k), dtype)
    weights = [pool.of(dtype).take((shape.n, shape.k), dtype, copy, copies).t() for copy in range(copies)]
    if case.kernel == "torch.mm":
        out = torch.empty((shape.m, shape.n), dtype=dtype, device=device)
        return lambda copy: torch.mm(inputs, weights[copy % copies], out=out)
    if case.kernel == "torch.int-mm":
        return lambda copy: torch._int_mm(inputs, weights[copy % copies])
    one = torch.ones((), device=device)
    return lambda copy: torch._scaled_mm(
        inputs, weights[copy % copies], scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def grouped(torch: Any, pool: Pools, case: Case, copies: int) -> Call:
    """torch._grouped_mm: gate and up of every expert in one launch, down in another, rows sorted by expert.

    The tokens are dealt out as evenly as for the bundled kernels; the gate between the launches is not timed.
    """
    shape = case.shape
    assert isinstance(shape, ExpertShape)
    dtype, device = getattr(torch, DTYPES[case.dtype]), pool.device
    parts = grouped_parts(shape)
    ends = torch.tensor(np.cumsum(parts[0].counts_used).tolist(), dtype=torch.int32, device=device)
    inputs, gated = (_random(torch, device, (part.rows, part.k), dtype) for part in parts)
    size = shape.experts * shape.inner * shape.hidden
    weights = []
    for copy in range(copies):
        values = pool.of(dtype).take((3 * size,), dtype, copy, copies).split((2 * size, size))
        weights.append([v.view(shape.experts, part.n, part.k).mT for v, part in zip(values, parts, strict=True)])

    def call(copy: int) -> Any:
        gate_up, down = weights[copy % copies]
        torch._grouped_mm(inputs, gate_up, offs=ends)
        return torch._grouped_mm(gated, down, offs=ends)

    return call


def prefill(torch: Any, pool: Pools, case: Case, copies: int) -> Call:
    """Causal attention of new tokens over themselves and what is cached, grouped heads, layout of engines."""
    del copies
    shape = case.shape
    assert isinstance(shape, AttentionShape)
    from torch.nn.attention.bias import causal_lower_right
    from torch.nn.functional import scaled_dot_product_attention

    dtype, device = getattr(torch, DTYPES[case.dtype]), pool.device
    length = shape.cached + shape.new
    query = _random(torch, device, (shape.sequences, shape.query_heads, shape.new, shape.head_dim), dtype)
    key, value = (
        _random(torch, device, (shape.sequences, shape.kv_heads, length, shape.head_dim), dtype) for _ in range(2)
    )
    if shape.cached:  # torch gives these to its flash kernel
        mask = causal_lower_right(shape.new, length)
        return lambda copy: scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
    return causal(torch, query, key, value)


def causal(torch: Any, query: Any, key: Any, value: Any) -> Call:
    """Causal attention over [sequences, heads, tokens, dim] in torch's fastest kernel for it.

    Of long prompts cuDNN's is timed against the one that torch takes; for short ones building it costs too much.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    def usual(copy: int) -> Any:
        return scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)

    def cudnn(copy: int) -> Any:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return usual(copy)

    if query.shape[-2] < LONG_PROMPT:
        return usual
    try:
        with warnings.catch_warnings():  # why a kernel does not take this
            warnings.simplefilter("ignore")
            return min((usual, cudnn), key=lambda way: min(Graph(torch, way, 1).replay_s(TRIALS)))
    except RuntimeError:  # no such kernel here, or none that can be captured
        return usual


def elementwise(torch: Any, pool: Pools, case: Case, copies: int) -> Call:
    """Residual addition, normalisation, gated activation; each on `size_bytes` of 16-bit values."""
    shape = case.shape
    assert isinstance(shape, StreamShape)
    dtype = getattr(torch, DTYPES[case.dtype])
    count = shape.size_bytes // dtype.itemsize
    rows = (max(count // ROW, 1), min(count, ROW))
    arrays = 1 if case.kernel == "torch.rms-norm" else 2

    def part(number: int) -> Any:
        return pool.of(dtype).take(rows, dtype, number, copies * arrays)

    operands = [[part(copy * arrays + i) for i in range(arrays)] for copy in range(copies)]
    out = torch.empty(rows, dtype=dtype, device=pool.device)
    if case.kernel == "torch.add":
        return lambda copy: torch.add(*operands[copy % copies], out=out)
    if case.kernel == "torch.rms-norm":
        weight = torch.ones(rows[1], dtype=dtype, device=pool.device)
        return lambda copy: torch.nn.functional.rms_norm(operands[copy % copies][0], (rows[1],), weight, EPSILON)
    return lambda copy: torch.mul(torch.nn.functional.silu(operands[copy % copies][0]), operands[copy % copies][1])


def eager(torch: Any, pool: Pools, case: Case, copies: int) -> Call:
    """One small operation, as eager code starts it: what the host needs is timed (`graphs.HostTimed`)."""
    del copies
    shape = case.shape
    assert isinstance(shape, StreamShape)
    dtype = getattr(torch, DTYPES[case.dtype])
    left, right = (_random(torch, pool.device, (shape.size_bytes // dtype.itemsize,), dtype) for _ in range(2))
    return lambda copy: torch.add(left, right)


BUILDERS = {
    "torch.grouped-mm": grouped,
    "torch.eager-add": eager,
    "torch.mm": products,
    "torch.scaled-mm": products,
    "torch.int-mm": products,
    "torch.sdpa": prefill,
    "torch.add": elementwise,
    "torch.rms-norm": elementwise,
    "torch.silu-mul": elementwise,
}


def build(torch: Any, pool: Pools, case: Case, copies: int) -> Call:
    """The call of a torch workload. Raises OutOfMemory or Unsupported."""
    if case.kernel not in BUILDERS:
        raise Unsupported(f"{case.kernel} is not known")
    try:
        call = BUILDERS[case.kernel](torch, pool, case, copies)
        call(0)
        return call
    except torch.OutOfMemoryError:
        raise OutOfMemory from None
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:  # names and arguments differ by version
        raise Unsupported(str(error).splitlines()[0][:160] if str(error) else type(error).__name__) from None
