"""Everything of a calibration but the GPU: the real device code over torch on the CPU, with clocks and launches faked.

What a GPU alone can show stays unseen; a wrong name, shape, type or order of calls does not. Needs torch.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from planner.calibration import process, suite, timing, workloads
from planner.calibration import run as running
from planner.calibration.cases import Named, experts
from planner.calibration.environment import TorchBuild
from planner.calibration.gpu import CudaDevice
from planner.calibration.graphs import Graph, Tuner
from planner.calibration.kernels import launch
from planner.calibration.kernels.launch import Check, Launcher
from planner.calibration.kernels.problem import Decode, Gemm
from planner.calibration.timing import OutOfMemory, Unsupported
from planner.calibration.transformer import Setting
from planner.calibration.validate import Instruments, Predictor, Shape, compare, graph_s
from planner.catalog.gpus import gpu
from planner.catalog.runs import read_run
from planner.specs.model import DenseFfn, MoeFfn
from planner.specs.run import ExpertShape, Mode, Status
from tests.fake_gpu import MIB, FakeNvml, smallest
from tests.oracle.models import GQA, build

torch = pytest.importorskip("torch")
pytest.importorskip("torch.nn.attention.bias")  # before torch has another GPU


class Event:
    def __init__(self, **how: Any) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, other: Event) -> float:
        return max(1e3 * (other.at - self.at), 1e-6)


class Captured:
    """A graph that replays in no time; what is captured runs once."""

    open = 0

    def capture_begin(self) -> None:
        Captured.open += 1

    def capture_end(self) -> None:
        Captured.open -= 1

    def replay(self) -> None:
        assert Captured.open == 0


class Stream:
    cuda_stream = 7

    def wait_stream(self, other: Stream) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *what: object) -> None:
        pass


PROPERTIES = SimpleNamespace(major=9, minor=0, multi_processor_count=132)  # as torch says
DEVICE = SimpleNamespace(  # as cuda-core says
    set_current=lambda: None,
    compute_capability=(9, 0),
    properties=SimpleNamespace(multiprocessor_count=132, max_shared_memory_per_block_optin=232448, l2_cache_size=MIB),
)


def cuda() -> SimpleNamespace:
    return SimpleNamespace(
        is_available=lambda: True,
        set_device=lambda device: None,
        init=lambda: None,
        synchronize=lambda: None,
        empty_cache=lambda: None,
        current_stream=Stream,
        Stream=Stream,
        stream=lambda stream: stream,
        Event=Event,
        CUDAGraph=Captured,
        get_device_properties=lambda index: PROPERTIES,
        mem_get_info=lambda: (640 * MIB, 640 * MIB),
    )


class OnTheCpu(ModuleType):
    """torch whose GPU is the CPU."""

    def __init__(self) -> None:
        super().__init__("torch")
        self.cuda = cuda()
        self.nn = torch.nn

    def __getattr__(self, name: str) -> Any:
        found = getattr(torch, name)
        if name not in ("empty", "zeros", "ones", "randn", "randint", "Generator"):
            return found
        return lambda *shape, **how: found(*shape, **(how | ({"device": "cpu"} if "device" in how else {})))

    @staticmethod
    def device(*what: Any) -> Any:
        return torch.device("cpu")


class Kernel:
    handle = 0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine with an H200 whose kernels all take no time; the kernels that were started."""
    started: list[str] = []
    code = SimpleNamespace(from_cubin=lambda data, name: SimpleNamespace(get_kernel=lambda entry: Kernel()))
    core, driver = ModuleType("cuda.core"), ModuleType("cuda.bindings.driver")
    core.Device = lambda index: DEVICE  # type: ignore[attr-defined]
    core.ObjectCode, core.LaunchConfig = code, lambda **how: how  # type: ignore[attr-defined]

    def run(stream: Any, config: dict[str, Any], kernel: Kernel, *arguments: Any) -> None:
        assert stream.__cuda_stream__() == (0, Stream.cuda_stream)
        assert all(type(extent) is int for extent in config["grid"]) and type(config["block"]) is int
        assert all(isinstance(item, int) or hasattr(item, "dtype") for item in arguments)
        started.append("launch")

    core.launch = run  # type: ignore[attr-defined]
    names = SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8)
    driver.CUfunction_attribute, driver.cuDeviceGet = names, lambda index: (0, index)  # type: ignore[attr-defined]
    driver.cuKernelSetAttribute = lambda *what: (0,)  # type: ignore[attr-defined]
    bindings = ModuleType("cuda.bindings")
    bindings.driver = driver  # type: ignore[attr-defined]
    package = ModuleType("cuda")
    package.core, package.bindings = core, bindings  # type: ignore[attr-defined]
    modules = {"torch": OnTheCpu(), "cuda": package, "cuda.core": core, "cuda.bindings": bindings}
    for name, module in (modules | {"cuda.bindings.driver": driver}).items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(launch, "cubin", lambda kernel, tile, cc: b"")
    monkeypatch.setattr(launch.Prepared, "check", lambda prepared: Check(0.0, 1.0))
    monkeypatch.setattr(Tuner, "compile", lambda tuner, asked: started.append(f"compile {len(list(asked))}"))
    monkeypatch.setattr(workloads, "CHUNK", MIB)
    monkeypatch.setattr(running, "rule_of", lambda mode: timing.Rule(graph_s=1e-9, total_s=1e-9, fewest_replays=1))
    monkeypatch.setattr(timing, "MOST_CALLS", 4)
    monkeypatch.setattr(suite, "GEOMETRIES", ((512, 256, 4, 2),) * 3)
    monkeypatch.setattr(CudaDevice, "limit_s", lambda device, case: 0.0)  # no time is too short here
    monkeypatch.setattr(timing, "MOST_COPIES", 4)
    nvml = FakeNvml()
    monkeypatch.setattr(process, "nvml", lambda: nvml)
    monkeypatch.setattr(process, "check_installed", lambda **how: TorchBuild("2.11.0", "13.0"))
    monkeypatch.delenv(process.VISIBLE, raising=False)
    return started


def test_a_calibration_runs_from_the_driver_to_the_file(
    machine: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "user_dir", lambda: tmp_path / "user")
    monkeypatch.setattr(process, "cases", smallest)
    monkeypatch.setattr(process, "anchor", lambda able, mode: smallest(able, mode)[0]._replace(anchor=True))
    path = process.measure_card(0, process.Wish(Mode.QUICK, tmp_path), lambda progress: None)
    run = read_run(path)
    failed = {point.kernel: point.note for point in run.points if point.status is Status.FAILED}
    assert set(failed) <= {"torch.scaled-mm"}, failed  # which the CPU may not have
    assert len({point.kernel for point in run.points}) > 30
    assert machine[0].startswith("compile") and "launch" in machine
    assert run.environment.compute_capability == 9.0 and run.gpu == "h200-sxm"


def test_a_capture_that_fails_is_ended(machine: list[str]) -> None:
    def broken(copy: int) -> None:
        if Captured.open:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        Graph(sys.modules["torch"], broken, 3)
    assert Captured.open == 0


def test_the_fastest_right_variant_is_taken_and_its_buffers_are_shared(
    machine: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = Launcher(0)
    tuner = Tuner(launcher)
    shape = Gemm(1, 2048, 2048)
    asked: list[Any] = []
    monkeypatch.setattr(tuner, "_pilot_s", lambda kernel, choice, *rest: asked.append(choice) or 1.0 / len(asked))
    monkeypatch.setattr(tuner, "_wrong", lambda kernel, choice: "")
    found = tuner.fastest("w4a16", shape, 3)
    assert found.choice == asked[-1]
    weights = found.tensors["weights"]
    assert len(weights) == 3 and tuner.fastest("w4a16", shape, 3).tensors["weights"] is weights
    tuner.release()
    assert tuner.fastest("w4a16", shape, 3).tensors["weights"] is not weights


def test_a_kernel_without_a_right_variant_is_unsupported(machine: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.Prepared, "check", lambda prepared: Check(0.5, 0.01))
    with pytest.raises(Unsupported, match=r"w4a16 .*error 0.5 of 0.01"):
        Tuner(Launcher(0)).fastest("w4a16", Gemm(1, 2048, 2048), 1)


def test_copies_that_do_not_fit_are_said_not_to(machine: list[str]) -> None:
    target = torch.device("cpu")
    pools = workloads.pools(sys.modules["torch"], target, "bf16", 8 * MIB)
    with pytest.raises(OutOfMemory):
        pools.half.take((2048, 2048), torch.bfloat16, 0, 2)


def test_a_grouped_product_gives_every_expert_its_own_rows(machine: list[str]) -> None:
    pools = workloads.pools(sys.modules["torch"], torch.device("cpu"), "bf16", 8 * MIB)
    shape = ExpertShape(tokens=3, hidden=64, inner=32, experts=4, active=2)  # 2, 2, 1, 1 rows
    down = workloads.build(sys.modules["torch"], pools, experts(Named("moe", "torch.grouped-mm", "bf16"), shape), 2)(1)
    size = 4 * 64 * 32
    weights = pools.half.take((3 * size,), torch.bfloat16, 1, 2)[2 * size :].view(4, 64, 32)
    used = [down[rows].float() for rows in (slice(0, 2), slice(2, 4), slice(4, 5), slice(5, 6))]
    for found, own in zip(used, weights.float(), strict=True):
        left = torch.linalg.lstsq(
            own, found.T
        ).solution  # the inputs that give these results, if they are this expert's
        assert torch.allclose(own @ left, found.T, atol=0.01)


@pytest.mark.parametrize("weight_format", ["bf16", "w4a16-g128"])
@pytest.mark.parametrize("ffn", [DenseFfn(intermediate=512), MoeFfn(n_experts=4, top_k=2, intermediate=256)])
def test_a_transformer_steps_with_the_fastest_kernels(machine: list[str], weight_format: str, ffn: Any) -> None:
    mixer = GQA.model_copy(update={"n_heads": 4, "n_kv_heads": 2, "head_dim": 64})
    model = build(mixer, ffn, 2).model_copy(update={"hidden_size": 256, "vocab_size": 512})
    shim, tuner = sys.modules["torch"], Tuner(Launcher(0))
    setting = Setting(shim, torch.device("cpu"), weight_format, tuner)
    wanted = [Shape("decode", 2, 40), Shape("prefill", 1, 32)]
    predictor = Predictor(model, weight_format, gpu("h200-sxm"), None)
    rows = compare(predictor, setting, wanted, Instruments(graph_s(shim), lambda: 1.0))
    assert [(row.phase, row.batch) for row in rows] == [("decode", 2), ("prefill", 1)]
    assert ("decode-bf16", Decode(2, 40, 4, 2, 64)) in tuner.choices and not tuner.buffers


def test_every_layer_and_every_product_has_weights_of_its_own(machine: list[str]) -> None:
    tuner = Tuner(Launcher(0))
    first = tuner.fastest("w4a16", Gemm(1, 256, 256), 2)
    tuner.release()
    second = tuner.fastest("w4a16", Gemm(1, 256, 256), 2)
    places = {part.data_ptr() for prepared in (first, second) for part in prepared.tensors["weights"]}
    assert len(places) == 4
