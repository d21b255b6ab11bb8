import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from planner.calibration import environment, process, profile
from planner.calibration.environment import Driver, Missing, TorchBuild, check_installed, device_token, nvml
from planner.calibration.process import allowed, locked, refuse_busy
from planner.calibration.profile import attributes, describe
from planner.catalog.gpus import gpu, gpu_from_profile, gpu_ids, lookup, names, profiles
from planner.errors import BadFile, BadValue
from tests.fake_gpu import BUILD, MIB, UUID, FakeNvml, NVMLError, processes


def driver(**answers: object) -> Driver:
    return Driver(FakeNvml(**answers))


def card(found: Driver, number: int = 0) -> environment.Card:
    return found.cards()[number]


# What is missing.


def test_without_the_extra_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(Missing, match=r"nvidia-ml-py is not installed: pip install .*calibrate"):
        nvml()


def test_without_a_driver_the_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(nvmlInit=NVMLError("Driver Not Loaded")))
    with pytest.raises(Missing, match=r"no NVIDIA driver answers .Driver Not Loaded"):
        nvml()


@pytest.mark.parametrize(
    ("build", "says"),
    [(None, "torch is not installed"), (TorchBuild("2.13.0+cpu", None), r"2.13.0\+cpu is built without CUDA")],
)
def test_the_torch_that_is_needed_is_named(build: TorchBuild | None, says: str) -> None:
    with pytest.raises(Missing, match=says):
        check_installed(lambda: build)


def test_the_extra_with_the_compiler_follows_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Missing, match=r"\[cu12\]"):
        check_installed(lambda: TorchBuild("2.8.0", "12.8"))


def test_torch_is_known_without_importing_it() -> None:
    pytest.importorskip("torch")
    found = environment.torch_build()
    assert found is not None and found.version[0].isdigit()


def test_a_driver_without_gpus_is_no_gpu() -> None:
    with pytest.raises(Missing, match="no GPU"):
        driver(nvmlDeviceGetCount=0).cards()


# What the driver says.


def test_a_gpu_is_described_with_its_limits() -> None:
    found = driver()
    said = found.environment(card(found), BUILD, "0" * 16)
    assert (said.gpu_name, said.driver, said.torch) == ("NVIDIA H200", "580.95.05", "2.13.0")
    assert (said.power_limit_w, said.ecc, said.compute_capability) == (700.0, True, 9.0)
    assert said.before.temperature_c == 41 and UUID not in said.model_dump_json()


def test_what_nvml_does_not_support_is_unknown() -> None:
    silent = FakeNvml()
    for name in silent.answers:
        if name not in ("nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetName", "nvmlDeviceGetUUID"):
            silent.answers[name] = NVMLError("Not Supported")
    found = Driver(silent)
    said = found.environment(card(found), BUILD, "0" * 16)
    assert said.power_limit_w is None and said.ecc is None and said.before.sm_mhz is None


def test_mig_instances_are_devices_of_their_own() -> None:
    cards = driver(slices=("1g.18gb", "3g.71gb")).cards()
    assert [(c.number, c.mig, c.uuid) for c in cards] == [(0, "1g.18gb", "MIG-1g.18gb"), (1, "3g.71gb", "MIG-3g.71gb")]


def test_throttling_is_said_in_words() -> None:
    found = driver(nvmlDeviceGetCurrentClocksEventReasons=0x24)
    assert found.health(card(found)).throttle == ("power-cap", "thermal")


def test_the_runs_own_memory_is_not_anothers() -> None:
    found = driver(nvmlDeviceGetComputeRunningProcesses=processes(p17=300 * MIB, p18=5 * MIB))
    assert found.health(card(found), frozenset({17})).others_bytes == 5 * MIB


@pytest.mark.parametrize("size", [0, 300 * MIB])
def test_a_gpu_in_use_is_refused_unless_told_otherwise(size: int) -> None:
    found = driver(nvmlDeviceGetComputeRunningProcesses=processes(p17=size))
    machine = process.Machine(found, BUILD, found.cards())
    refuse_busy(machine, force=True)
    if size:
        with pytest.raises(BadValue, match="other processes hold 300 MiB; --force"):
            refuse_busy(machine, force=False, pause=lambda seconds: None)
    else:
        refuse_busy(machine, force=False)


def test_a_process_that_has_just_ended_does_not_count_as_busy() -> None:
    looks = iter((90, 30, 0))
    found = driver(nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=next(looks)))
    waits: list[float] = []
    refuse_busy(process.Machine(found, BUILD, found.cards()), force=False, pause=waits.append)
    assert len(waits) == 2


def test_a_device_token_tells_cards_apart_and_nothing_else(tmp_path: Path) -> None:
    here, there = tmp_path / "a", tmp_path / "b"
    assert device_token(UUID, here) == device_token(UUID, here) != device_token(UUID + "x", here)
    assert device_token(UUID, here) != device_token(UUID, there)


def test_one_run_at_a_time_and_the_other_is_named(tmp_path: Path) -> None:
    with locked(tmp_path, "0" * 16):
        with pytest.raises(BadValue, match=r"calibrated by process \d+"), locked(tmp_path, "0" * 16):
            pass
        with locked(tmp_path, "1" * 16):
            pass
    with locked(tmp_path, "0" * 16):
        pass


# Profiles.


def test_a_known_gpu_keeps_its_profile() -> None:
    found = driver()
    assert describe(card(found), found) == (gpu("h200-sxm"), None)


def test_a_strangers_profile_follows_from_its_attributes() -> None:
    found = driver(name="NVIDIA H299")
    spec, document = describe(card(found), found)
    assert document is not None and spec.id == "h299"
    assert spec.bandwidth_bytes_per_s == pytest.approx(4.917e12, rel=0.01)  # 6144 bit at 3201 MHz, twice per clock
    assert spec.flops_per_s["bf16"] == pytest.approx(gpu("h200-sxm").flops_per_s["bf16"], rel=0.1)
    assert all(v["kind"] == "derived" for v in document.values() if isinstance(v, dict))


def test_a_written_profile_can_be_read_again() -> None:
    found = driver(name="NVIDIA GeForce RTX 9999", nvmlDeviceGetCudaComputeCapability=(12, 1))
    document = attributes(card(found), found)
    again = gpu_from_profile(document, "here")
    assert again.id == "geforce-rtx-9999" and again.compute_capability == 12.1


@pytest.fixture
def own_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder of an installed planner."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(profile, "profiles_dir", lambda: tmp_path / "installed" / "hardware_profiles")
    yield tmp_path
    for function in (names.resolve, profiles.load, lookup._gpu):
        function.cache_clear()


def test_a_planner_that_runs_finds_the_profile_that_was_just_written(own_profiles: Path) -> None:
    found = driver(name="NVIDIA H299")
    document = describe(card(found), found).document
    assert document is not None and "h299" not in gpu_ids()
    assert own_profiles in profile.write_profile(document).parents
    assert "h299" in gpu_ids() and gpu("NVIDIA H299").id == "h299" and gpu("h200-sxm").id == "h200-sxm"
    assert describe(card(found), found).document is None  # the next run describes nothing anew


def test_a_folder_that_takes_no_files_is_said_in_one_line(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(BadFile, match="file"), locked(blocked, "0" * 16):
        pass
    with pytest.raises(BadFile, match="file"):
        device_token(UUID, blocked)


def test_a_stranger_that_says_nothing_needs_a_profile() -> None:
    found = driver(name="NVIDIA H299", nvmlDeviceGetMemoryBusWidth=NVMLError("Not Supported"))
    with pytest.raises(BadValue, match="give a profile"):
        describe(card(found), found)


@pytest.mark.parametrize(("visible", "kept"), [(None, 2), ("0", 1), ("GPU-0a1b2c3d", 2), ("0,1", 2), (" 1 ", 1)])
def test_gpus_that_others_were_given_are_left_alone(visible: str | None, kept: int) -> None:
    cards = Driver(FakeNvml(nvmlDeviceGetCount=2)).cards()
    assert len(allowed(cards, visible)) == kept


@pytest.mark.parametrize("visible", ["", "7", "GPU-ffffffff"])
def test_hidden_gpus_are_said_to_be_hidden(visible: str) -> None:
    with pytest.raises(Missing, match="CUDA_VISIBLE_DEVICES hides"):
        allowed(Driver(FakeNvml()).cards(), visible)
