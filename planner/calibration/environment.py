"""The machine as the driver describes it: which GPUs, in what state, and what is missing to measure them.

NVML is asked through `nvidia-ml-py`; a figure that it does not give is unknown, never fatal.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from planner.catalog.files import made_folder
from planner.errors import BadFile, PlannerError
from planner.specs.run import Environment, Health

EXTRA = "pip install 'llm-capacity-planner[calibrate,cu13]' (cu12 for a driver before 580)"
BUNDLED = "planner calibrate --bundled measures the bundled kernels without it"
MEBI, MILLI = 2**20, 1e-3
BUSY_BYTES = 200 * MEBI  # of other processes
BUSY_PERCENT = 5
SALT_FILE = "device-salt"

# Bits of NVML's clock event reasons; those that are part of a card's own limits, and those that spoil a measurement.
REASONS = {
    0x1: "idle",
    0x2: "application-clocks",
    0x4: "power-cap",
    0x8: "hardware-slowdown",
    0x10: "sync-boost",
    0x20: "thermal",
    0x40: "hardware-thermal",
    0x80: "power-brake",
    0x100: "display-clocks",
}
SPOILING = frozenset({"hardware-slowdown", "thermal", "hardware-thermal", "power-brake"})


class Missing(PlannerError):
    """Something that measuring needs is not installed, or there is no GPU."""


class TorchBuild(NamedTuple):
    """The installed torch, read from its files: importing it takes seconds."""

    version: str
    cuda: str | None


NO_TORCH = TorchBuild("", "")


def torch_build() -> TorchBuild | None:
    """None when torch is not installed."""
    found = importlib.util.find_spec("torch")
    if found is None or not found.origin:
        return None
    text = (Path(found.origin).parent / "version.py").read_text("utf-8")
    version = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)", text, re.MULTILINE)
    cuda = re.search(r"^cuda\b[^=]*=\s*['\"]([^'\"]+)", text, re.MULTILINE)
    return TorchBuild(version.group(1) if version else "", cuda.group(1) if cuda else None)


def nvml() -> Any:
    """The initialised NVML binding. Raises Missing: the extra, the driver, or a GPU."""
    try:
        import pynvml
    except ImportError:
        raise Missing(f"nvidia-ml-py is not installed: {EXTRA}") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise Missing(f"no NVIDIA driver answers ({error}); nvidia-smi should list the GPU first") from None
    return pynvml


def check_installed(build: Callable[[], TorchBuild | None] = torch_build, bundled: bool = False) -> TorchBuild:
    """What the suite needs beside the driver; torch too, unless `bundled` kernels alone are to be measured.

    Raises Missing with the one thing to do next.
    """
    found = NO_TORCH if bundled else build()
    if found is None:
        raise Missing(f"torch is not installed: {EXTRA}; {BUNDLED}")
    if found.cuda is None:
        raise Missing(
            f"torch {found.version} is built without CUDA; install a CUDA build (pytorch.org says which); {BUNDLED}"
        )
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.core") is None:
        extra = "cu12" if found.cuda.startswith("12") else "cu13"
        raise Missing(f"cuda-core is not installed: pip install 'llm-capacity-planner[{extra}]'")
    return found


class Card(NamedTuple):
    """One device that can be measured: a GPU, or a MIG instance of one."""

    number: int
    name: str
    uuid: str  # stays in this process; runs carry a salted hash
    handle: Any
    mig: str | None = None


def text(value: Any) -> str:
    """NVML gives bytes or str, by version."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class Driver:
    """NVML, asked one question at a time; what it does not support is None."""

    def __init__(self, binding: Any) -> None:
        self.binding = binding

    def ask(self, question: str, *arguments: Any) -> Any:
        """The answer of one NVML function, or None."""
        function = getattr(self.binding, question, None)
        if function is None:
            return None
        try:
            return function(*arguments)
        except self.binding.NVMLError:
            return None

    def cards(self) -> list[Card]:
        """Every GPU, or the MIG instances of one that is divided. Raises Missing when there is none."""
        found: list[Card] = []
        for index in range(self.ask("nvmlDeviceGetCount") or 0):
            handle = self.ask("nvmlDeviceGetHandleByIndex", index)
            if handle is None:
                continue
            name, uuid = text(self.ask("nvmlDeviceGetName", handle)), text(self.ask("nvmlDeviceGetUUID", handle))
            slices = self._slices(handle, name)
            found += [Card(len(found) + i, *part) for i, part in enumerate(slices or [(name, uuid, handle, None)])]
        if not found:
            raise Missing("the driver knows no GPU")
        return found

    def _slices(self, handle: Any, name: str) -> list[tuple[str, str, Any, str | None]]:
        mode = self.ask("nvmlDeviceGetMigMode", handle)
        if not mode or not mode[0]:
            return []
        parts: list[tuple[str, str, Any, str | None]] = []
        for place in range(self.ask("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
            part = self.ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, place)
            if part is not None:
                label = re.search(r"\d+g\.\d+gb", text(self.ask("nvmlDeviceGetName", part)).lower())
                uuid = text(self.ask("nvmlDeviceGetUUID", part))
                parts.append((name, uuid, part, label.group(0) if label else "unknown"))
        return parts

    def processes(self, card: Card) -> dict[int, int]:
        """Memory in bytes of every process that computes on the card."""
        found = self.ask("nvmlDeviceGetComputeRunningProcesses", card.handle) or []
        return {int(process.pid): int(process.usedGpuMemory or 0) for process in found}

    def health(self, card: Card, own: frozenset[int] = frozenset()) -> Health:
        """Clocks, power, temperature, throttling and other processes, now."""
        handle = card.handle
        reasons = self.ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
        if reasons is None:
            reasons = self.ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle) or 0
        power = self.ask("nvmlDeviceGetPowerUsage", handle)
        others = [size for pid, size in self.processes(card).items() if pid not in own]
        return Health(
            sm_mhz=self.ask("nvmlDeviceGetClockInfo", handle, 1),
            memory_mhz=self.ask("nvmlDeviceGetClockInfo", handle, 2),
            power_w=None if power is None else power * MILLI,
            temperature_c=self.ask("nvmlDeviceGetTemperature", handle, 0),
            throttle=tuple(name for bit, name in REASONS.items() if reasons & bit),
            others_bytes=sum(others),
        )

    def busy(self, card: Card) -> str:
        """Why the card should be left alone; empty when it is free."""
        held = sum(self.processes(card).values())
        if held > BUSY_BYTES:
            return f"other processes hold {held / MEBI:,.0f} MiB"
        use = self.ask("nvmlDeviceGetUtilizationRates", card.handle)
        percent = getattr(use, "gpu", 0) or 0
        return f"it is {percent} % busy" if percent > BUSY_PERCENT else ""

    def environment(self, card: Card, build: TorchBuild, token: str) -> Environment:
        """What of the machine bears on speed; the parts that only CUDA knows are added by the device."""
        handle = card.handle
        memory = self.ask("nvmlDeviceGetMemoryInfo", handle)
        capability = self.ask("nvmlDeviceGetCudaComputeCapability", handle)
        limit = self.ask("nvmlDeviceGetPowerManagementLimit", handle)
        usual = self.ask("nvmlDeviceGetPowerManagementDefaultLimit", handle)
        ecc = self.ask("nvmlDeviceGetEccMode", handle)
        display = self.ask("nvmlDeviceGetDisplayActive", handle)
        return Environment(
            gpu_name=card.name[:200],
            device_token=token,
            compute_capability=None if capability is None else float(f"{capability[0]}.{capability[1]}"),
            total_bytes=None if memory is None else int(memory.total),
            driver=text(self.ask("nvmlSystemGetDriverVersion") or ""),
            cuda=build.cuda or "",
            torch=build.version,
            power_limit_w=None if limit is None else limit * MILLI,
            power_limit_default_w=None if usual is None else usual * MILLI,
            max_sm_mhz=self.ask("nvmlDeviceGetMaxClockInfo", handle, 1),
            max_memory_mhz=self.ask("nvmlDeviceGetMaxClockInfo", handle, 2),
            ecc=None if ecc is None else bool(ecc[0]),
            mig=card.mig,
            display=None if display is None else bool(display),
            before=self.health(card),
        )


def device_token(uuid: str, folder: Path) -> str:
    """A hash of the card that means nothing on another machine: its salt never leaves this one. Raises BadFile."""
    path = made_folder(folder) / SALT_FILE
    try:
        if not path.exists():
            path.write_text(secrets.token_hex(16), "utf-8")
            path.chmod(0o600)
    except OSError as error:
        raise BadFile(f"{path}: cannot be written ({error.strerror}); XDG_DATA_HOME names another folder") from None
    return hashlib.sha256((path.read_text("utf-8") + uuid).encode()).hexdigest()[:16]
