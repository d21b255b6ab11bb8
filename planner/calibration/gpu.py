"""The real device of the suite: torch's kernels and the bundled ones in CUDA graphs, timed by events."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from planner.calibration.cases import Case
from planner.calibration.environment import Card, Driver, Missing
from planner.calibration.kernels.catalogue import kernel_named
from planner.calibration.kernels.compile import CompileError
from planner.calibration.kernels.launch import Launcher, LaunchError
from planner.calibration.kernels.problem import Nothing, Stream
from planner.calibration.suite import Ability, as_bundled, grouped_parts
from planner.calibration.timing import OutOfMemory, Unsupported
from planner.calibration.workloads import build, pools
from planner.catalog.rates import peak_rates
from planner.specs.gpu import GpuSpec
from planner.specs.run import Environment, ExpertShape, Health, StreamShape

WARM_UPS = 3
MILLI = 1e-3
MOST_CAPTURED = 4096
TRIED = 12  # choices of tile and split that are timed per shape
PILOT_CALLS = 8
ADA, TURING = 89, 75  # compute capabilities from which torch multiplies FP8, and int8
RIGHT_ONCE = ("stream-read", "stream-copy", "empty")  # too large to compare, or nothing to compare

Call = Callable[[int], Any]


class Graph:
    """A captured sequence of calls."""

    def __init__(self, torch: Any, call: Call, calls: int) -> None:
        self.torch, self.graph = torch, torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for copy in range(calls):
                call(copy)

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
        calls = min(calls, MOST_CAPTURED)
        try:
            if calls not in self.graphs:
                self.graphs = {calls: Graph(self.torch, self.call, calls)}
                self.graphs[calls].replay_s(WARM_UPS)
            return [seconds / calls for seconds in self.graphs[calls].replay_s(replays)]
        except self.torch.OutOfMemoryError:
            raise OutOfMemory from None


class CudaDevice:
    """One GPU as the suite sees it. Raises Missing when torch cannot use it."""

    def __init__(self, driver: Driver, card: Card, spec: GpuSpec) -> None:
        try:
            import torch

            self.launcher = Launcher(0)
        except (LaunchError, CompileError) as error:
            raise Missing(str(error)) from None
        self.torch, self.driver, self.card, self.spec = torch, driver, card, spec
        before = frozenset(driver.processes(card))
        torch.cuda.synchronize()
        self.own = frozenset(driver.processes(card)) - before or before
        limits = self.launcher.limits
        self.l2_bytes = limits.l2_bytes or int(spec.l2_bytes or 0)
        free, self.total_bytes = torch.cuda.mem_get_info()
        self.pool = pools(torch, self.launcher.target, self.able.half, free)
        self.choices: dict[Any, Any] = {}
        self.checked: set[tuple[str, str]] = set()

    @property
    def able(self) -> Ability:
        """What the suite may ask for."""
        limits = self.launcher.limits
        return Ability(limits, self.total_bytes, limits.cc >= ADA, limits.cc >= TURING)

    def completed(self, environment: Environment) -> Environment:
        """The environment with what only CUDA knows."""
        found = self.torch.cuda.get_device_properties(0)
        return environment.model_copy(
            update={
                "compute_capability": float(f"{found.major}.{found.minor}"),
                "sm_count": found.multi_processor_count,
                "l2_bytes": self.l2_bytes or None,
                "total_bytes": self.total_bytes,
            }
        )

    def health(self) -> Health:
        return self.driver.health(self.card, self.own)

    def limit_s(self, case: Case) -> float:
        bandwidth, peak = peak_rates(self.spec, case.family)
        return max(case.bytes / bandwidth if case.cold_bytes else 0.0, case.flops / peak)

    def free(self) -> None:
        self.torch.cuda.empty_cache()

    def load(self, case: Case, copies: int) -> Work:
        if case.kernel.startswith("torch."):
            return Work(self.torch, build(self.torch, self.pool, case, copies))
        try:
            return Work(self.torch, self._bundled(case, copies))
        except self.torch.OutOfMemoryError:
            raise OutOfMemory from None
        except (CompileError, LaunchError) as error:
            raise Unsupported(str(error)) from None

    # Bundled kernels.

    def _bundled(self, case: Case, copies: int) -> Call:
        """One call of a bundled kernel, or of both launches of a block of experts, in its fastest variant."""
        shape: Any = case.shape
        if isinstance(shape, ExpertShape):
            parts: tuple[Any, ...] = grouped_parts(shape)
        elif isinstance(shape, StreamShape):
            parts = (Stream(shape.size_bytes) if shape.size_bytes else Nothing(),)
        else:
            parts = (as_bundled(shape),)
        prepared = [self._fastest(case.kernel, part, copies) for part in parts]

        def call(copy: int) -> None:
            stream = self.torch.cuda.current_stream()
            for one in prepared:
                one.run(stream, copy)

        call(0)
        self.torch.cuda.synchronize()
        return call

    def _fastest(self, name: str, shape: Any, copies: int) -> Any:
        """The kernel prepared with the best of its tiles and splits; each tile's numbers are checked once."""
        kernel = kernel_named(name)
        if (name, shape) not in self.choices:
            found = kernel.choices(shape, self.launcher.limits)[:TRIED]
            if not found:
                raise Unsupported(f"{name} does not take this shape")
            timed = [(self._pilot_s(kernel, choice, shape, copies), i) for i, choice in enumerate(found)]
            self.choices[name, shape] = found[min(timed)[1]]
        return self.launcher.prepare(kernel, self.choices[name, shape], shape, copies)

    def _pilot_s(self, kernel: Any, choice: Any, shape: Any, copies: int) -> float:
        prepared = self.launcher.prepare(kernel, choice, shape, copies)
        if (kernel.name, choice.tile.name) not in self.checked and kernel.name not in RIGHT_ONCE:
            check = prepared.check()
            if not check.passed:
                raise Unsupported(f"{kernel.name} {choice.tile.name}: error {check.error:.2g} of {check.tolerance:.2g}")
            self.checked.add((kernel.name, choice.tile.name))
        calls = max(copies, PILOT_CALLS)
        work = Work(self.torch, lambda copy: prepared.run(self.torch.cuda.current_stream(), copy))
        return min(work.seconds(min(calls, MOST_CAPTURED), 3))
