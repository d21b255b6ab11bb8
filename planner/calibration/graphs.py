"""Calls on a GPU captured in CUDA graphs and timed by events; bundled kernels in the variant that is fastest.

Capturing is done here and not by `torch.cuda.graph`, which collects garbage and gives all cached memory back before
every capture: a suite captures thousands of graphs.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from planner.calibration.kernels.catalogue import kernel_named
from planner.calibration.kernels.compile import CompileError, compile_all
from planner.calibration.kernels.launch import Buffers, Launcher, LaunchError, Prepared, said
from planner.calibration.kernels.problem import Choice, Decode, Gemm, Grouped, Kernel, Latent, Tile
from planner.calibration.timing import Fault, OutOfMemory, Unsupported

WARM_UPS = 3
MILLI = 1e-3
MOST_CAPTURED = 4096
MOST_QUEUED = 500  # launches that wait for the GPU: drivers take about a thousand before they make the host wait
TRIED = 12  # choices of tile and split that are timed per shape
PILOT_S, PILOT_REPLAYS = 60e-6, 2  # a graph that tells variants apart lasts that long
MOST_LONGER = 32  # times the first try
RIGHT_ONCE = ("stream-read", "stream-copy", "empty")  # too large to compare, or nothing to compare
# Sizes at which a tile's numbers are checked, at most: what is odd about a shape is what tests/gpu are for.
CHECKED_ROWS, CHECKED_SIDE, CHECKED_CONTEXT, CHECKED_SEQS = 128, 2048, 1000, 3

Call = Callable[[int], Any]


@lru_cache(maxsize=1)
def _side_stream(torch: Any) -> Any:
    """The stream on which everything is captured: libraries keep a workspace for every stream they see."""
    return torch.cuda.Stream()


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Nothing is freed while a capture runs: an old graph or event that goes then would end it."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Graph:
    """A captured sequence of calls."""

    def __init__(self, torch: Any, call: Call, calls: int) -> None:
        self.torch, self.graph = torch, torch.cuda.CUDAGraph()
        stream = _side_stream(torch)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            call(0)  # what loads at first use must not load while a capture runs
            torch.cuda.synchronize()
            with _no_collection():
                self._capture(call, calls)

    def _capture(self, call: Call, calls: int) -> None:
        self.graph.capture_begin()
        try:
            for copy in range(calls):
                call(copy)
        except BaseException:
            with contextlib.suppress(RuntimeError):  # a capture that failed cannot be ended without one
                self.graph.capture_end()
            raise
        self.graph.capture_end()

    def replay_s(self, replays: int) -> list[float]:
        """Seconds of every replay, by events on the stream."""
        events = [self.torch.cuda.Event(enable_timing=True) for _ in range(replays + 1)]
        events[0].record()
        for event in events[1:]:
            self.graph.replay()
            event.record()
        self.torch.cuda.synchronize()
        return [a.elapsed_time(b) * MILLI for a, b in itertools.pairwise(events)]


class Work:
    """A loaded case; graphs of different lengths are captured when they are asked for."""

    def __init__(self, torch: Any, call: Call) -> None:
        self.torch, self.call = torch, call
        self.graphs: dict[int, Graph] = {}

    def seconds(self, calls: int, replays: int) -> Sequence[float]:
        """Seconds per call, one figure per replay of a graph of `calls` calls."""
        calls = min(calls, MOST_CAPTURED)
        try:
            if calls not in self.graphs:
                self.graphs = {calls: Graph(self.torch, self.call, calls)}
                self.graphs[calls].replay_s(WARM_UPS)
            return [seconds / calls for seconds in self.graphs[calls].replay_s(replays)]
        except self.torch.OutOfMemoryError:
            raise OutOfMemory from None
        except RuntimeError as error:
            raise failed(self.torch, error) from None


class HostTimed:
    """A loaded case whose calls the host starts one by one, as eager code does: seconds are the host's own."""

    def __init__(self, torch: Any, call: Call) -> None:
        self.torch, self.call = torch, call

    def seconds(self, calls: int, replays: int) -> Sequence[float]:
        """Host seconds per call, one figure per queue of `calls` calls, at most MOST_QUEUED: it must never be full."""
        found, calls = [], min(calls, MOST_QUEUED)
        for _ in range(replays):
            self.torch.cuda.synchronize()
            start = time.perf_counter()
            for copy in range(calls):
                self.call(copy)
            found.append((time.perf_counter() - start) / calls)
        self.torch.cuda.synchronize()
        return found


def failed(torch: Any, error: Exception) -> Fault | Unsupported:
    """What an error of a kernel means: this kernel cannot run, or nothing runs any more in this process."""
    words = str(error) if isinstance(error, Unsupported) else said(error)
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return Fault(words)
    return Unsupported(words)


class Tuner:
    """Bundled kernels on one GPU: for every shape the fastest of a kernel's tiles and splits, their numbers checked."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher
        self.choices: dict[Any, Choice] = {}
        self.checked: dict[tuple[str, Tile], str] = {}  # what is wrong with a tile; blank: nothing
        self.buffers: Buffers = {}

    def release(self) -> None:
        """Let go of the buffers of the last shape."""
        self.buffers = {}

    def compile(self, asked: Iterable[tuple[str, Any]]) -> None:
        """Machine code for all that kernels at these shapes may need, by several processes at once."""
        limits = self.launcher.limits
        variants = {
            (kernel.name, choice.tile): (kernel, choice.tile)
            for kernel, shape in ((kernel_named(name), shape) for name, shape in asked)
            for choice in kernel.choices(shape, limits)[:TRIED]
        }
        with contextlib.suppress(CompileError):  # said again for the point that needs it
            compile_all(variants.values(), limits.cc)

    def fastest(self, name: str, shape: Any, copies: int) -> Prepared:
        """The kernel prepared in its best variant. Raises Unsupported where none takes the shape or none is right."""
        kernel = kernel_named(name)
        if (name, shape) not in self.choices:
            found = kernel.choices(shape, self.launcher.limits)[:TRIED]
            wrong = [self._wrong(kernel, choice) for choice in found]
            right = [choice for choice, fault in zip(found, wrong, strict=True) if not fault]
            if not right:
                raise Unsupported(next(iter(wrong), f"{name} does not take this shape"))
            self.choices[name, shape] = self._best(right, lambda choice: self._pilot_s(kernel, choice, shape, copies))
        return self.launcher.prepare(kernel, self.choices[name, shape], shape, copies, self.buffers)

    @staticmethod
    def _best(choices: Sequence[Choice], seconds: Callable[[Choice], float]) -> Choice:
        """The fastest: each tile with its likeliest split, then the other splits of the best tile."""
        first = {choice.tile: choice for choice in reversed(choices)}
        times = {choice: seconds(choice) for choice in first.values()}
        tile = min(times, key=lambda choice: times[choice]).tile
        times |= {choice: seconds(choice) for choice in choices if choice.tile == tile and choice not in times}
        return min(times, key=lambda choice: times[choice])

    def _wrong(self, kernel: Kernel, choice: Choice) -> str:
        """What is wrong with a tile's numbers; each tile is checked once, where it is first needed."""
        key = kernel.name, choice.tile
        if key not in self.checked:
            fault = ""
            if kernel.name not in RIGHT_ONCE:
                try:
                    found = self.launcher.prepare(kernel, *self._small(kernel, choice)).check()
                    if not found.passed:
                        fault = f"{kernel.name} {choice.tile.name}: error {found.error:.2g} of {found.tolerance:.2g}"
                except (CompileError, LaunchError) as error:  # another tile may still do
                    fault = str(error)
            self.checked[key] = fault
        return self.checked[key]

    def _small(self, kernel: Kernel, choice: Choice) -> tuple[Choice, Any]:
        """A choice with the same tile at the smallest shape that takes it, with as many splits as come nearest."""
        for shape in small_shapes(kernel):
            same = [other for other in kernel.choices(shape, self.launcher.limits) if other.tile == choice.tile]
            if same:
                return min(same, key=lambda other: abs(other.splits - choice.splits)), shape
        raise Unsupported(f"{kernel.name} {choice.tile.name}: no small shape takes it")

    def _pilot_s(self, kernel: Kernel, choice: Choice, shape: Any, copies: int) -> float:
        """Seconds of one call: of as many as pass through the cache twice, or of more where those are over too soon."""
        prepared, torch = self.launcher.prepare(kernel, choice, shape, copies, self.buffers), self.launcher.torch
        cold_bytes = max(prepared.problem.cold_bytes, 1)
        calls = min(copies, -(-2 * self.launcher.limits.l2_bytes // cold_bytes) + 1, MOST_CAPTURED)
        for _ in range(2):
            graph = Graph(torch, lambda copy: prepared.run(torch.cuda.current_stream(), copy), calls)
            lasted = graph.replay_s(1)[0]
            if lasted >= PILOT_S:
                break
            calls = min(MOST_CAPTURED, calls * min(MOST_LONGER, math.ceil(PILOT_S / lasted)))
        return min(graph.replay_s(PILOT_REPLAYS)) / calls


def small_shapes(kernel: Kernel) -> Iterable[Any]:
    """Shapes with few and many rows, smallest first, at which every tile of a kernel is offered."""
    rows = (1, 2, 4, 8, 16, 32, 64, CHECKED_ROWS, 4 * CHECKED_ROWS)
    if kernel.shape is Gemm:
        yield from (Gemm(m, CHECKED_SIDE, CHECKED_SIDE) for m in rows)
    elif kernel.shape is Grouped:
        yield from (Grouped(m, CHECKED_SIDE // 2, CHECKED_SIDE // 2, 4, 2) for m in rows)
    elif kernel.shape is Decode:
        yield from (
            Decode(CHECKED_SEQS, CHECKED_CONTEXT, queries, keys, dim)
            for dim in (128, 64, 256)
            for queries, keys in ((32, 8), (8, 1), (8, 8))
        )
    elif kernel.shape is Latent:
        yield Latent(CHECKED_SEQS, CHECKED_CONTEXT, 16)
