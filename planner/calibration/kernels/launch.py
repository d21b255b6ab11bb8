"""Kernels on a GPU: buffers made, machine code loaded, launches that a CUDA graph can capture, results checked.

    launcher = Launcher(0)
    prepared = launcher.prepare(kernel, choice, shape, copies=4)   # four sets of cold operands
    prepared.run(stream, copy=2)                                   # one launch, asynchronous
    prepared.check()                                               # poisons, runs, compares; raises nothing

Needs torch (memory and streams) or what stands for it (`bare`), cuda-core and a driver; none is imported before a
Launcher is made.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from planner.calibration.kernels.compile import CompileError, cubin
from planner.calibration.kernels.problem import (
    Array,
    Choice,
    DeviceLimits,
    Fill,
    Fixed,
    InBlocks,
    Kernel,
    Operand,
    Problem,
    Role,
    Tile,
    error_of,
)
from planner.errors import PlannerError

POOL_VALUES = 2**21  # distinct values of a buffer; beyond, they repeat
ALIGN_BYTES = 256  # as allocators do
POISON = 0xFF  # a NaN in every floating-point format here
CHECKED_PARTS = 6
STATIC_SHARED_BYTES = 48 * 1024  # dynamic shared memory beyond needs the kernel's consent


Buffers = dict[tuple[Operand, int], list[Any]]  # by operand and number of copies


class LaunchError(PlannerError):
    """No GPU, no driver, or the driver refuses."""


class Check(NamedTuple):
    """Largest error against the reference, as a fraction of the largest value, and what is allowed."""

    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance


class _Stream(NamedTuple):
    """A stream's handle as cuda-core takes it from other libraries."""

    handle: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle


class _View:
    """A device tensor that gives NumPy arrays of the parts asked for."""

    def __init__(self, tensor: Any, dtype: str) -> None:
        self.tensor, self.dtype = tensor, dtype

    def __getitem__(self, index: Any) -> Array:
        part = self.tensor[index].contiguous().cpu().numpy()
        return np.asarray(part).view(self.dtype)


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise LaunchError("torch is missing; install the extra calibrate") from None
    if not torch.cuda.is_available():
        raise LaunchError("torch sees no CUDA GPU: no driver, no GPU, or a torch built without CUDA")
    return torch


def _checked(result: Sequence[Any], what: str) -> Any:
    if int(result[0]):
        raise LaunchError(f"{what}: {result[0]}")
    return result[1] if len(result) > 1 else None


class Prepared(NamedTuple):
    """A problem with its buffers on a GPU. `size_bytes` and `flops` are those of one launch."""

    torch: Any
    problem: Problem
    kernel: Kernel
    choice: Choice
    copies: int
    tensors: Mapping[str, Sequence[Any]]  # by operand; one tensor, or one per copy
    launches: Sequence[Any]

    @property
    def size_bytes(self) -> int:
        return self.problem.size_bytes

    @property
    def flops(self) -> int:
        return self.problem.flops

    def run(self, stream: Any, copy: int = 0) -> None:
        """One launch on a torch stream (or any with `cuda_stream`), reading the cold operands of that copy."""
        self.launches[copy % self.copies](_Stream(int(stream.cuda_stream)))

    def arrays(self, copy: int = 0) -> dict[str, Any]:
        shapes = {operand.name: operand.dtype for operand in self.problem.operands}
        return {name: _View(found[copy % len(found)], shapes[name]) for name, found in self.tensors.items()}

    def poison(self) -> None:
        """Outputs and scratch become NaN, so that what the kernel fails to write is seen."""
        for operand in self.problem.operands:
            if operand.role in (Role.OUTPUT, Role.SCRATCH):
                for tensor in self.tensors[operand.name]:
                    tensor.view(tensor.dtype).flatten().view(self.torch.uint8).fill_(POISON)

    def check(self, copy: int = 0, parts: Sequence[int] | None = None) -> Check:
        """Run twice on poisoned outputs (semaphores must return to zero), then compare some parts."""
        torch, problem = self.torch, self.problem
        for _ in range(2):
            self.poison()
            self.run(torch.cuda.current_stream(), copy)
        torch.cuda.synchronize()
        if parts is None:
            spread = np.linspace(0, problem.parts - 1, min(CHECKED_PARTS, problem.parts))
            parts = sorted({int(part) for part in spread})
        return Check(error_of(problem, self.arrays(copy), parts), problem.tolerance)


class Launcher:
    """One GPU: its limits, its loaded kernels and a pool of values to fill buffers from."""

    def __init__(self, device: int = 0, torch: Any = None) -> None:
        """`torch`: what stands for it. Raises LaunchError without it, GPU or driver, CompileError without cuda-core."""
        self.torch = torch or _torch()
        try:
            from cuda.core import Device
        except ImportError:
            raise CompileError("cuda-core is missing; install the extra cu13 (or cu12)") from None
        self.torch.cuda.set_device(device)
        self.torch.cuda.init()
        self.torch.empty(1, device=f"cuda:{device}")  # makes the primary context, which cuda-core then shares
        self.device = Device(device)
        self.device.set_current()
        self.index = device
        self.target = self.torch.device("cuda", device)
        self._kernels: dict[tuple[str, Tile], Any] = {}
        self._pools: dict[Fill, Any] = {}

    @property
    def limits(self) -> DeviceLimits:
        """As the driver says: torch does not promise all of these."""
        found, (major, minor) = self.device.properties, self.device.compute_capability
        shared, l2 = found.max_shared_memory_per_block_optin, found.l2_cache_size
        return DeviceLimits(10 * major + minor, found.multiprocessor_count, shared, l2)

    def prepare(
        self, kernel: Kernel, choice: Choice, shape: Any, copies: int = 1, buffers: Buffers | None = None
    ) -> Prepared:
        """Buffers, random values and launches; `copies` sets of cold operands, so that none is found in the cache.

        `buffers` keeps what one choice needs for the next. Raises CompileError, LaunchError, and what torch raises
        when memory runs out.
        """
        problem = kernel.problem(choice, shape)
        kept = {} if buffers is None else buffers
        tensors: dict[str, list[Any]] = {}
        for operand in problem.operands:
            key = operand, copies if operand.role is Role.COLD else 1
            if key not in kept:
                kept[key] = self._tensors(*key)
            tensors[operand.name] = kept[key]
        loaded = self._loaded(kernel, choice.tile)
        launches = _launches(loaded, choice.tile, problem, tensors, copies)
        return Prepared(self.torch, problem, kernel, choice, copies, tensors, launches)

    def _tensors(self, operand: Operand, copies: int) -> list[Any]:
        """The operand once for every copy, side by side in one buffer: filled by a few launches, not thousands."""
        integer = {1: self.torch.uint8, 2: self.torch.int16, 4: self.torch.int32, 8: self.torch.int64}
        dtype, fill = integer[np.dtype(operand.dtype).itemsize], operand.fill
        if fill is None:
            return [self.torch.zeros(operand.shape, dtype=dtype, device=self.target)]
        if isinstance(fill, Fixed):
            return [self._upload(fill.values.ravel(), dtype).reshape(operand.shape)]
        unit = unit_of(fill)
        stride = stride_of(operand, unit) if copies > 1 else operand.length
        pool = self._pool(fill, dtype)
        start = zlib.crc32(operand.name.encode()) % (pool.numel() // unit) * unit  # keys and values differ
        total = stride * (copies - 1) + operand.length
        flat = pool.roll(-start).repeat(-(-total // pool.numel()))
        parts = (flat[copy * stride : copy * stride + operand.length] for copy in range(copies))
        return [part.reshape(operand.shape) for part in parts]

    def _pool(self, fill: Fill, dtype: Any) -> Any:
        """Values to repeat, whole blocks of them."""
        if fill not in self._pools:
            count = POOL_VALUES // unit_of(fill) * unit_of(fill)
            self._pools[fill] = self._upload(fill(np.random.default_rng(0), count), dtype)
        return self._pools[fill]

    def _upload(self, values: Array, dtype: Any) -> Any:
        signed = np.ascontiguousarray(values).view({1: "u1", 2: "i2", 4: "i4", 8: "i8"}[values.itemsize])
        return self.torch.from_numpy(signed).to(device=self.target, dtype=dtype)

    def _loaded(self, kernel: Kernel, tile: Tile) -> Any:
        if (kernel.name, tile) not in self._kernels:
            from cuda.bindings import driver
            from cuda.core import ObjectCode

            code = cubin(kernel, tile, self.limits.cc)
            try:
                found = ObjectCode.from_cubin(code, name=kernel.name).get_kernel(kernel.entry)
            except Exception as error:  # cuda-core raises its own types, by version
                raise LaunchError(f"{kernel.name} ({tile.name}) does not load: {said(error)}") from None
            if tile.shared_bytes > STATIC_SHARED_BYTES:
                wanted = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                device = _checked(driver.cuDeviceGet(self.index), "device")
                result = driver.cuKernelSetAttribute(wanted, tile.shared_bytes, found.handle, device)
                _checked(result, f"{kernel.name} ({tile.name}) asks for {tile.shared_bytes} bytes of shared memory")
            self._kernels[kernel.name, tile] = found
        return self._kernels[kernel.name, tile]


def said(error: Exception) -> str:
    """An error of a library in one line, its kind included unless it is one of ours."""
    kind = "" if isinstance(error, PlannerError) else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())[:160]


def unit_of(fill: Fill) -> int:
    """Values that belong together."""
    return fill.unit if isinstance(fill, InBlocks) else 1


def stride_of(operand: Operand, unit: int) -> int:
    """Values from one copy to the next: whole blocks, and every copy where an allocation would begin."""
    step = math.lcm(unit, ALIGN_BYTES // np.dtype(operand.dtype).itemsize)
    return -(-operand.length // step) * step


def _launches(
    loaded: Any, tile: Tile, problem: Problem, tensors: Mapping[str, Sequence[Any]], copies: int
) -> list[Callable[[_Stream], None]]:
    """One launch for each copy of the cold operands."""
    from cuda.core import LaunchConfig, launch

    config = LaunchConfig(grid=problem.grid, block=tile.threads, shmem_size=tile.shared_bytes)

    def one(copy: int) -> Callable[[_Stream], None]:
        arguments = [
            tensors[item][copy % len(tensors[item])].data_ptr() if isinstance(item, str) else item
            for item in problem.arguments
        ]

        def start(stream: _Stream) -> None:
            try:
                launch(stream, config, loaded, *arguments)
            except Exception as error:  # cuda-core raises its own types, by version
                raise LaunchError(f"{tile.name} does not start: {said(error)}") from None

        return start

    return [one(copy) for copy in range(copies)]
