"""As much of torch as the bundled kernels need, over the driver alone: memory, streams, events, graphs.

    launcher = Launcher(0, bare.Runtime())     # in place of the module `torch`; kernels, checks and graphs are the same

Needs cuda-core and cuda-bindings; neither is imported before a Runtime is made. Names are torch's.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from planner.calibration.kernels.problem import Array

DEFAULT_STREAM, APART = 0, 1  # a handle; a flag: beside the default stream, not behind it


class OutOfMemoryError(RuntimeError):
    """The device has no memory left."""


class _Driver:
    """The driver's functions, which answer or raise."""

    def __init__(self) -> None:
        from cuda.bindings import driver

        self.binding = driver

    def __call__(self, name: str, *arguments: Any) -> Any:
        """What the function gives. Raises OutOfMemoryError and RuntimeError."""
        code, *found = getattr(self.binding, name)(*arguments)
        if code == self.binding.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise OutOfMemoryError(name)
        if int(code):
            raise RuntimeError(f"{name}: {code}")
        return found[0] if len(found) == 1 else tuple(found)


class _Memory:
    """An allocation, given back with its last tensor."""

    def __init__(self, driver: _Driver, size_bytes: int) -> None:
        self.driver = driver
        self.pointer = int(driver("cuMemAlloc", max(size_bytes, 1)))

    def __del__(self) -> None:
        if hasattr(self, "pointer"):
            with contextlib.suppress(RuntimeError):
                self.driver("cuMemFree", self.pointer)


class Part(NamedTuple):
    """Values that have come to the host."""

    values: Array

    def contiguous(self) -> Part:
        return self

    def cpu(self) -> Part:
        return self

    def numpy(self) -> Array:
        return np.ascontiguousarray(self.values)


class Tensor:
    """An array in a part of an allocation, always contiguous."""

    def __init__(self, memory: _Memory, dtype: np.dtype[Any], shape: tuple[int, ...], start_bytes: int = 0) -> None:
        self.memory, self.dtype, self.shape, self.start_bytes = memory, dtype, shape, start_bytes

    def data_ptr(self) -> int:
        return self.memory.pointer + self.start_bytes

    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.numel() * self.dtype.itemsize

    def reshape(self, shape: tuple[int, ...]) -> Tensor:
        assert math.prod(shape) == self.numel()
        return Tensor(self.memory, self.dtype, tuple(shape), self.start_bytes)

    def flatten(self) -> Tensor:
        return self.reshape((self.numel(),))

    def view(self, dtype: np.dtype[Any]) -> Tensor:
        """The same bytes as values of another type, in a row."""
        return Tensor(self.memory, dtype, (self.size_bytes // dtype.itemsize,), self.start_bytes)

    def __getitem__(self, index: Any) -> Tensor | Part:
        """A part of a row stays where it is; of anything else the values come to the host."""
        if isinstance(index, slice) and len(self.shape) == 1 and index.step is None:
            start, stop, _ = index.indices(self.numel())
            at = self.start_bytes + start * self.dtype.itemsize
            return Tensor(self.memory, self.dtype, (max(stop - start, 0),), at)
        return Part(self.numpy()[index])

    def contiguous(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return self

    def numpy(self) -> Array:
        """The values on the host."""
        values = np.empty(self.shape, self.dtype)
        if self.size_bytes:
            self.memory.driver("cuMemcpyDtoH", values.ctypes.data, self.data_ptr(), self.size_bytes)
        return values

    def fill_(self, byte: int) -> Tensor:
        """Every byte the same."""
        if self.size_bytes:
            self.memory.driver("cuMemsetD8", self.data_ptr(), byte, self.size_bytes)
        return self

    def _like(self, count: int) -> Tensor:
        return Tensor(_Memory(self.memory.driver, count * self.dtype.itemsize), self.dtype, (count,))

    def _copied(self, source: Tensor, at: int, start: int, count: int) -> None:
        """`count` values of the source from `start` on, to `at`."""
        width = self.dtype.itemsize
        places = self.data_ptr() + at * width, source.data_ptr() + start * width
        if count:
            self.memory.driver("cuMemcpyDtoD", *places, count * width)

    def roll(self, shift: int) -> Tensor:
        """A row whose values have moved on by `shift`, the last ones to its start."""
        found, count = self._like(self.numel()), self.numel()
        first = shift % count
        found._copied(self, first, 0, count - first)
        found._copied(self, 0, count - first, first)
        return found

    def repeat(self, times: int) -> Tensor:
        """A row so many times, one after the other: what is there is doubled until it is enough."""
        total = times * self.numel()
        found, done = self._like(total), min(total, self.numel())
        found._copied(self, 0, 0, done)
        while done < total:
            more = min(done, total - done)
            found._copied(found, done, 0, more)
            done += more
        return found


class _Values(NamedTuple):
    """Values of the host on their way to the device."""

    driver: _Driver
    values: Array

    def to(self, device: Any, dtype: np.dtype[Any]) -> Tensor:
        del device
        assert dtype == self.values.dtype
        found = Tensor(_Memory(self.driver, self.values.nbytes), dtype, self.values.shape)
        if self.values.nbytes:
            self.driver("cuMemcpyHtoD", found.data_ptr(), self.values.ctypes.data, self.values.nbytes)
        return found


class Stream:
    """A stream that captures."""

    def __init__(self, cuda: Cuda, handle: Any = None) -> None:
        self.cuda = cuda
        self.cuda_stream = int(cuda.driver("cuStreamCreate", APART) if handle is None else handle)

    def wait_stream(self, other: Stream) -> None:
        self.cuda.synchronize()


class Event:
    """A moment on the stream in use."""

    def __init__(self, cuda: Cuda, enable_timing: bool) -> None:
        del enable_timing  # always
        self.cuda, self.handle = cuda, cuda.driver("cuEventCreate", 0)

    def record(self) -> None:
        self.cuda.driver("cuEventRecord", self.handle, self.cuda.current.cuda_stream)

    def elapsed_time(self, other: Event) -> float:
        """Milliseconds from this to another."""
        return float(self.cuda.driver("cuEventElapsedTime", self.handle, other.handle))

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            with contextlib.suppress(RuntimeError):
                self.cuda.driver("cuEventDestroy", self.handle)


class CUDAGraph:
    """A captured sequence of launches."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.ready: Any = None

    def capture_begin(self) -> None:
        modes = self.cuda.driver.binding.CUstreamCaptureMode
        mode = modes.CU_STREAM_CAPTURE_MODE_GLOBAL
        self.cuda.driver("cuStreamBeginCapture", self.cuda.current.cuda_stream, mode)

    def capture_end(self) -> None:
        captured = self.cuda.driver("cuStreamEndCapture", self.cuda.current.cuda_stream)
        try:
            self.ready = self.cuda.driver("cuGraphInstantiate", captured, 0)
        finally:
            self.cuda.driver("cuGraphDestroy", captured)

    def replay(self) -> None:
        self.cuda.driver("cuGraphLaunch", self.ready, self.cuda.current.cuda_stream)

    def __del__(self) -> None:
        if self.ready is not None:
            with contextlib.suppress(RuntimeError):
                self.cuda.driver("cuGraphExecDestroy", self.ready)


class Properties(NamedTuple):
    """Of the device."""

    major: int
    minor: int
    multi_processor_count: int


class Cuda:
    """What stands for `torch.cuda`."""

    def __init__(self, driver: _Driver) -> None:
        self.driver = driver
        self.current = Stream(self, DEFAULT_STREAM)
        self.Stream, self.Event, self.CUDAGraph = (partial(kind, self) for kind in (Stream, Event, CUDAGraph))

    def set_device(self, index: int) -> None:
        from cuda.core import Device

        Device(index).set_current()

    def init(self) -> None:
        """The context is made by `set_device`."""

    def empty_cache(self) -> None:
        """Nothing is kept."""

    def synchronize(self) -> None:
        self.driver("cuCtxSynchronize")

    def current_stream(self) -> Stream:
        return self.current

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def mem_get_info(self) -> tuple[int, int]:
        """Free and total bytes."""
        free, total = self.driver("cuMemGetInfo")
        return int(free), int(total)

    def get_device_properties(self, index: int) -> Properties:
        from cuda.core import Device

        device = Device(index)
        major, minor = device.compute_capability
        return Properties(major, minor, device.properties.multiprocessor_count)


class Runtime:
    """What stands for the module `torch`. Raises RuntimeError without a driver, ImportError without cuda-bindings."""

    OutOfMemoryError = OutOfMemoryError
    uint8, int16, int32, int64 = (np.dtype(name) for name in ("u1", "i2", "i4", "i8"))

    def __init__(self) -> None:
        self.driver = _Driver()
        self.cuda = Cuda(self.driver)

    def device(self, kind: str, index: int) -> int:
        return index

    def empty(self, count: int, device: Any) -> Tensor:
        return Tensor(_Memory(self.driver, count), self.uint8, (count,))

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any], device: Any) -> Tensor:
        return Tensor(_Memory(self.driver, math.prod(shape) * dtype.itemsize), dtype, tuple(shape)).fill_(0)

    def from_numpy(self, values: Array) -> _Values:
        return _Values(self.driver, values)
