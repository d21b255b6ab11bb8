"""The driver and cuda-core without a GPU: device memory is the host's, and the emulator runs what is launched.

driver = FakeDriver()
monkeypatch.setitem(sys.modules, ...)      # as `modules(driver)` names them
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from planner.calibration.kernels.catalogue import kernel_named
from planner.calibration.kernels.problem import Kernel, Tile

sys.path.insert(0, str(Path(__file__).resolve().parent / "kernels"))
import emulator

MIB = 2**20
OUT_OF_MEMORY, INVALID = 2, 1
ALIGN = 256


class Loaded(NamedTuple):
    """A kernel as cuda-core holds it."""

    kernel: Kernel
    tile: Tile
    handle: int = 0


class FakeDriver:
    """`cuda.bindings.driver`; every address is checked against what was allocated."""

    CUresult = SimpleNamespace(CUDA_ERROR_OUT_OF_MEMORY=OUT_OF_MEMORY)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_GLOBAL=0)
    CUfunction_attribute = SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8)

    def __init__(self, memory_bytes: int = 640 * MIB, runs: Callable[..., None] | None = None) -> None:
        self.memory_bytes, self.runs = memory_bytes, runs or self.emulated
        self.held: dict[int, tuple[Any, int]] = {}
        self.capturing: dict[int, list[Any]] = {}
        self.graphs: dict[int, list[Any]] = {}
        self.events: dict[int, float] = {}
        self.count = 0

    def _number(self) -> int:
        self.count += 1
        return self.count

    def used_bytes(self) -> int:
        return sum(size for _, size in self.held.values())

    def cuMemAlloc(self, size: int) -> tuple[int, int]:  # noqa: N802
        if self.used_bytes() + size > self.memory_bytes:
            return OUT_OF_MEMORY, 0
        store = np.empty(size + ALIGN, np.uint8)
        pointer = store.ctypes.data + -store.ctypes.data % ALIGN
        self.held[pointer] = store, size
        return 0, pointer

    def cuMemFree(self, pointer: int) -> tuple[int]:  # noqa: N802
        del self.held[pointer]
        return (0,)

    def _inside(self, pointer: int, count: int) -> bool:
        return any(base <= pointer and pointer + count <= base + size for base, (_, size) in self.held.items())

    def _move(self, to: int, source: int, count: int, *devices: int) -> tuple[int]:
        if not all(self._inside(pointer, count) for pointer in devices):
            return (INVALID,)
        ctypes.memmove(to, source, count)
        return (0,)

    def cuMemcpyHtoD(self, to: int, source: int, count: int) -> tuple[int]:  # noqa: N802
        return self._move(to, source, count, to)

    def cuMemcpyDtoH(self, to: int, source: int, count: int) -> tuple[int]:  # noqa: N802
        return self._move(to, source, count, source)

    def cuMemcpyDtoD(self, to: int, source: int, count: int) -> tuple[int]:  # noqa: N802
        return self._move(to, source, count, to, source)

    def cuMemsetD8(self, to: int, byte: int, count: int) -> tuple[int]:  # noqa: N802
        if not self._inside(to, count):
            return (INVALID,)
        ctypes.memset(to, byte, count)
        return (0,)

    def cuMemGetInfo(self) -> tuple[int, int, int]:  # noqa: N802
        return 0, self.memory_bytes - self.used_bytes(), self.memory_bytes

    def cuCtxSynchronize(self) -> tuple[int]:  # noqa: N802
        return (INVALID if self.capturing else 0,)

    def cuStreamCreate(self, flags: int) -> tuple[int, int]:  # noqa: N802
        return 0, self._number()

    def cuStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:  # noqa: N802
        if not stream:
            return (INVALID,)  # the default stream cannot be captured
        self.capturing[stream] = []
        return (0,)

    def cuStreamEndCapture(self, stream: int) -> tuple[int, int]:  # noqa: N802
        graph = self._number()
        self.graphs[graph] = self.capturing.pop(stream)
        return 0, graph

    def cuGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int]:  # noqa: N802
        ready = self._number()
        self.graphs[ready] = self.graphs[graph]
        return 0, ready

    def cuGraphLaunch(self, ready: int, stream: int) -> tuple[int]:  # noqa: N802
        for launched in self.graphs[ready]:
            self.runs(*launched)
        return (0,)

    def cuGraphDestroy(self, graph: int) -> tuple[int]:  # noqa: N802
        del self.graphs[graph]
        return (0,)

    cuGraphExecDestroy = cuGraphDestroy  # noqa: N815

    def cuEventCreate(self, flags: int) -> tuple[int, int]:  # noqa: N802
        return 0, self._number()

    def cuEventRecord(self, event: int, stream: int) -> tuple[int]:  # noqa: N802
        self.events[event] = time.perf_counter()
        return (0,)

    def cuEventElapsedTime(self, start: int, end: int) -> tuple[int, float]:  # noqa: N802
        return 0, max(1e3 * (self.events[end] - self.events[start]), 1e-6)

    def cuEventDestroy(self, event: int) -> tuple[int]:  # noqa: N802
        self.events.pop(event, None)
        return (0,)

    def cuDeviceGet(self, index: int) -> tuple[int, int]:  # noqa: N802
        return 0, index

    def cuKernelSetAttribute(self, *what: Any) -> tuple[int]:  # noqa: N802
        return (0,)

    def launch(self, stream: Any, config: dict[str, Any], loaded: Loaded, *arguments: Any) -> None:
        """As `cuda.core.launch`: into the graph that is being captured on the stream, or at once."""
        version, handle = stream.__cuda_stream__()
        assert version == 0 and config["block"] == loaded.tile.threads
        if handle in self.capturing:
            self.capturing[handle].append((config, loaded, arguments))
        else:
            assert not self.capturing, "another stream is being captured"
            self.runs(config, loaded, arguments)

    def emulated(self, config: dict[str, Any], loaded: Loaded, arguments: tuple[Any, ...]) -> None:
        """Run by the emulator on all that is allocated."""
        built, core = emulator.library(loaded.kernel, loaded.tile), emulator._core()
        core.emu_clear()
        for pointer, (_, size) in self.held.items():
            core.emu_buffer(ctypes.c_void_p(pointer), ctypes.c_ulonglong(size), 1)
        held = [np.array([item], np.uint64 if isinstance(item, int) else None) for item in arguments]
        pointers = (ctypes.c_void_p * max(1, len(held)))(*(array.ctypes.data for array in held))
        grid = (ctypes.c_uint * 3)(*config["grid"])
        shared = ctypes.c_ulonglong(config["shmem_size"])
        said = built.emu_run(grid, config["block"], shared, ctypes.c_uint(1), pointers)
        assert not said, said


def machine_code(kernel: Kernel, tile: Tile, cc: int) -> bytes:
    """What stands for machine code: which kernel, which tile."""
    return f"{kernel.name} {tile.name}".encode()


def _object(code: bytes, name: str) -> Any:
    kernel_name, tile_name = code.decode().split()
    kernel = kernel_named(kernel_name)
    tile = next(tile for tile in kernel.tiles if tile.name == tile_name)
    return SimpleNamespace(get_kernel=lambda entry: Loaded(kernel, tile))


def modules(driver: FakeDriver, l2_bytes: int = MIB) -> dict[str, Any]:
    """cuda-core and cuda-bindings of an H200, by module name."""
    properties = SimpleNamespace(
        multiprocessor_count=132, max_shared_memory_per_block_optin=232448, l2_cache_size=l2_bytes
    )
    device = SimpleNamespace(set_current=lambda: None, compute_capability=(9, 0), properties=properties)
    core, bindings, package = (ModuleType(name) for name in ("cuda.core", "cuda.bindings", "cuda"))
    core.__dict__.update(
        Device=lambda index: device,
        ObjectCode=SimpleNamespace(from_cubin=_object),
        LaunchConfig=lambda **how: how,
        launch=driver.launch,
    )
    bindings.__dict__["driver"] = driver
    package.__dict__.update(core=core, bindings=bindings)
    return {"cuda": package, "cuda.core": core, "cuda.bindings": bindings, "cuda.bindings.driver": driver}
