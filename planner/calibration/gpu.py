"""The real device of the suite: torch's kernels and the bundled ones in CUDA graphs, timed by events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from planner.calibration.cases import Case
from planner.calibration.environment import Card, Driver, Missing
from planner.calibration.graphs import Call, HostTimed, Tuner, Work, failed
from planner.calibration.kernels.bare import Runtime
from planner.calibration.kernels.compile import CompileError
from planner.calibration.kernels.launch import Launcher, LaunchError, said
from planner.calibration.kernels.problem import Nothing, Stream
from planner.calibration.suite import EAGER, Ability, as_bundled, grouped_parts
from planner.calibration.timing import LoadedCase, OutOfMemory, Unsupported
from planner.calibration.workloads import build, pools
from planner.catalog.efficiency import peak_rates
from planner.specs.gpu import GpuSpec
from planner.specs.run import LIBRARY, Environment, ExpertShape, Health, StreamShape

ADA, TURING = 89, 75  # compute capabilities from which torch multiplies FP8, and int8
GROUPED = (9, 10)  # major ones for which it has a grouped product: elsewhere the host deals out the rows
LEAST_FREE = 0.2  # of the device's memory, for what is not torch's: graphs, code, libraries


class CudaDevice:
    """One GPU as the suite sees it, through torch or, for `bundled` kernels alone, through the driver.

    Raises Missing where that cannot use it.
    """

    def __init__(self, driver: Driver, card: Card, spec: GpuSpec, bundled: bool = False) -> None:
        try:
            self.launcher = Launcher(0, Runtime() if bundled else None)
        except (LaunchError, CompileError, ImportError, RuntimeError) as error:
            raise Missing(said(error)) from None
        torch = self.launcher.torch
        self.torch, self.driver, self.card, self.spec, self.bundled = torch, driver, card, spec, bundled
        self.tuner = Tuner(self.launcher)
        torch.cuda.synchronize()
        self.own = frozenset(driver.processes(card))  # this process, and those that --force puts up with
        limits = self.launcher.limits
        self.l2_bytes = limits.l2_bytes or int(spec.l2_bytes or 0)
        free, self.total_bytes = torch.cuda.mem_get_info()
        self.pool = None if bundled else pools(torch, self.launcher.target, self.able.half, free)

    @property
    def able(self) -> Ability:
        """What the suite may ask for."""
        limits = self.launcher.limits
        if self.bundled:
            return Ability(limits, self.total_bytes, False, False, library=False)
        return Ability(limits, self.total_bytes, limits.cc >= ADA, limits.cc >= TURING, limits.cc // 10 in GROUPED)

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
        """What is cold comes from memory; of what is warm (results, activations), the cache may hold its own size."""
        bandwidth, peak = peak_rates(self.spec, case.family)
        warm_bytes = max(0.0, case.bytes - case.cold_bytes - self.l2_bytes)
        return max((case.cold_bytes + warm_bytes) / bandwidth if case.cold_bytes else 0.0, case.flops / peak)

    def compile(self, cases: Sequence[Case]) -> None:
        """Machine code of every bundled kernel that these points may need."""
        asked = [
            (case.kernel, part) for case in cases if not case.kernel.startswith(LIBRARY) for part in parts_of(case)
        ]
        self.tuner.compile(asked)

    def free(self) -> None:
        """Let go of the last point's buffers. Torch keeps them for the next point: asking the driver takes longer."""
        self.tuner.release()
        if self.torch.cuda.mem_get_info()[0] < LEAST_FREE * self.total_bytes:
            self.torch.cuda.empty_cache()

    def load(self, case: Case, copies: int) -> LoadedCase:
        try:
            if self.pool is not None and case.kernel.startswith(LIBRARY):
                kind = HostTimed if case.kernel == EAGER else Work
                return kind(self.torch, build(self.torch, self.pool, case, copies))
            return Work(self.torch, self._bundled(case, copies))
        except self.torch.OutOfMemoryError:
            raise OutOfMemory from None
        except (CompileError, LaunchError, Unsupported, RuntimeError) as error:
            raise failed(self.torch, error) from None

    def _bundled(self, case: Case, copies: int) -> Call:
        """One call of a bundled kernel, or of both launches of a block of experts, in its fastest variant."""
        prepared = [self.tuner.fastest(case.kernel, part, copies) for part in parts_of(case)]

        def call(copy: int) -> None:
            stream = self.torch.cuda.current_stream()
            for one in prepared:
                one.run(stream, copy)

        call(0)
        self.torch.cuda.synchronize()
        return call


def parts_of(case: Case) -> tuple[Any, ...]:
    """The launches of a point, as bundled kernels take them."""
    shape: Any = case.shape
    if isinstance(shape, ExpertShape):
        return grouped_parts(shape)
    if isinstance(shape, StreamShape):
        return (Stream(shape.size_bytes) if shape.size_bytes else Nothing(),)
    return (as_bundled(shape),)
