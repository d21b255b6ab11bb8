"""Launching without a GPU: what is missing is said in one line. With one, tests/gpu takes over."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from planner.calibration.kernels import compile as compiling
from planner.calibration.kernels.compile import CompileError, compiler_version
from planner.calibration.kernels.launch import Launcher, LaunchError
from planner.errors import PlannerError


def test_missing_torch_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(LaunchError, match="install the extra calibrate"):
        Launcher()


def test_a_machine_without_a_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False)))
    with pytest.raises(LaunchError, match="no CUDA GPU"):
        Launcher()


def test_a_missing_compiler_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler_version.cache_clear()
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(CompileError, match="extra cu13") as caught:
        compiler_version()
    assert isinstance(caught.value, PlannerError)
    assert "\n" not in str(caught.value)
    compiler_version.cache_clear()


def test_the_cache_is_a_folder_of_the_user_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(compiling.CACHE_DIR, raising=False)
    assert compiling.cache_dir().name == "cubins"
    monkeypatch.setenv(compiling.CACHE_DIR, "elsewhere")
    assert str(compiling.cache_dir()) == "elsewhere"
