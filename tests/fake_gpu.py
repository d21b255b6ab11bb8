"""A driver and a GPU clock that need neither: NVML's answers, and times that follow from a roofline."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from planner.calibration.cases import Case
from planner.calibration.environment import TorchBuild
from planner.calibration.kernels.problem import DeviceLimits
from planner.calibration.suite import Ability, cases
from planner.calibration.timing import OutOfMemory, Unsupported
from planner.specs.run import Health, Mode

MIB = 2**20
LARGEST = 64 * MIB
UUID = "GPU-0a1b2c3d-1111-2222-3333-444455556666"
BUILD = TorchBuild("2.13.0", "13.0")


class NVMLError(Exception):
    pass


class FakeNvml:
    """What `pynvml` would say of an idle H200; `answers` replaces some, and an NVMLError among them is raised."""

    NVMLError = NVMLError

    def __init__(self, name: str = "NVIDIA H200", slices: tuple[str, ...] = (), **answers: Any) -> None:
        def label(handle: str) -> bytes:
            return (f"{name} MIG {handle}" if handle in slices else name).encode()

        self.answers: dict[str, Any] = {
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetHandleByIndex": lambda index: f"gpu{index}",
            "nvmlDeviceGetName": label,
            "nvmlDeviceGetUUID": lambda handle: f"MIG-{handle}" if handle in slices else UUID,
            "nvmlDeviceGetMigMode": (1, 1) if slices else (0, 0),
            "nvmlDeviceGetMaxMigDeviceCount": len(slices),
            "nvmlDeviceGetMigDeviceHandleByIndex": lambda handle, index: slices[index],
            "nvmlDeviceGetComputeRunningProcesses": [],
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=0),
            "nvmlDeviceGetCurrentClocksEventReasons": 0,
            "nvmlDeviceGetPowerUsage": 345_678,
            "nvmlDeviceGetClockInfo": lambda handle, kind: 1980 if kind == 1 else 3201,
            "nvmlDeviceGetMaxClockInfo": lambda handle, kind: 1980 if kind == 1 else 3201,
            "nvmlDeviceGetTemperature": 41,
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=141 * 2**30),
            "nvmlDeviceGetCudaComputeCapability": (9, 0),
            "nvmlDeviceGetPowerManagementLimit": 700_000,
            "nvmlDeviceGetPowerManagementDefaultLimit": 700_000,
            "nvmlDeviceGetEccMode": (1, 1),
            "nvmlDeviceGetDisplayActive": 0,
            "nvmlDeviceGetNumGpuCores": 132 * 128,
            "nvmlDeviceGetMemoryBusWidth": 6144,
            "nvmlSystemGetDriverVersion": "580.95.05",
            "nvmlInit": None,
        } | answers

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in self.answers:
            raise AttributeError(name)

        def answer(*arguments: Any) -> Any:
            found = self.answers[name]
            if isinstance(found, Exception):
                raise found
            return found(*arguments) if callable(found) else found

        return answer


def processes(**sizes: int) -> list[Any]:
    """Processes on the GPU: p17=bytes."""
    return [SimpleNamespace(pid=int(name[1:]), usedGpuMemory=size) for name, size in sizes.items()]


def smallest(able: Ability, mode: Mode) -> list[Case]:
    """One point of every kernel of the suite, the one that moves least."""
    found: dict[str, Case] = {}
    for case in cases(able, mode):
        if case.kernel not in found or case.bytes + case.flops < found[case.kernel].bytes + found[case.kernel].flops:
            found[case.kernel] = case
    assert max(case.bytes for case in found.values()) < LARGEST
    return list(found.values())


@dataclass
class FakeDevice:
    """A GPU whose times are t0 + max(memory, arithmetic), 2 % noise that only the shape decides.

    A rotation smaller than the cache reads from it at `cache_gain` times the speed.
    """

    l2_bytes: int = 50 * MIB
    true_l2_bytes: int = 0  # when the driver says something else
    memory_bytes: int = 141 * 2**30
    bandwidth: float = 4.8e12 * 0.9
    flops: float = 989e12 * 0.8
    t0_s: float = 4e-6
    cache_gain: float = 3.0
    faster_than_light: float = 1.0  # divides every time: a broken clock
    hot_until: int = 0  # health checks that report heat
    broken: frozenset[str] = frozenset()
    on_load: Callable[[Case], None] = lambda case: None
    loads: list[tuple[Case, int]] = field(default_factory=list)
    checks: int = 0

    @property
    def able(self) -> Ability:
        return Ability(DeviceLimits(90, 132, 232448, self.l2_bytes), self.memory_bytes, True, True, True)

    def load(self, case: Case, copies: int) -> FakeLoad:
        self.on_load(case)
        self.loads.append((case, copies))
        if case.kernel in self.broken:
            raise Unsupported("no image for this device at /opt/kernels/x.cubin")
        if case.cold_bytes * copies + (case.bytes - case.cold_bytes) > self.memory_bytes:
            raise OutOfMemory
        return FakeLoad(self, case, copies)

    def health(self) -> Health:
        self.checks += 1
        return Health(sm_mhz=1980, throttle=("thermal",) if self.checks <= self.hot_until else (), others_bytes=0)

    def limit_s(self, case: Case) -> float:
        return max(case.bytes / 4.8e12 if case.cold_bytes else 0.0, case.flops / 989e12)

    def free(self) -> None:
        pass


@dataclass
class FakeLoad:
    device: FakeDevice
    case: Case
    copies: int

    def seconds(self, calls: int, replays: int) -> Sequence[float]:
        d, c = self.device, self.case
        hot = c.cold_bytes and c.cold_bytes * self.copies < (d.true_l2_bytes or d.l2_bytes)
        memory = c.bytes / (d.bandwidth * (d.cache_gain if hot else 1.0))
        noise = 1 + 0.02 * (zlib.crc32(repr(c.key).encode()) / 2**32 - 0.5)
        one = (d.t0_s + max(memory, c.flops / d.flops)) * noise / d.faster_than_light
        return [one * (1 + 0.001 * (i % 3)) for i in range(replays)]
