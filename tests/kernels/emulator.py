"""The bundled kernels on the CPU: built by g++ against emu/, run on NumPy arrays with guards around them."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from planner.calibration.kernels.compile import SOURCES, macros
from planner.calibration.kernels.problem import Choice, Kernel, Problem, Role, Tile, error_of

EMULATOR = Path(__file__).resolve().parent / "emu"
GUARD_BYTES = 256
GUARD = 0xA5
POISON = 0xFF
FLAGS = "-O1 -std=c++20 -DEMULATED -fno-strict-aliasing -fPIC -w".split()
COMPILER = os.environ.get("CXX", "g++")
Mutation = tuple[str, str]


class EmulatedFault(Exception):
    """The emulator ended the launch: what a GPU would have done silently."""


def available() -> bool:
    return shutil.which(COMPILER) is not None


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="planner-emulator-"))
    import atexit

    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _build(*arguments: str) -> None:
    done = subprocess.run([COMPILER, *FLAGS, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:2000]


@cache
def _core() -> ctypes.CDLL:
    target = _folder() / "libemu.so"
    _build("-O2", "-shared", str(EMULATOR / "emu.cpp"), "-o", str(target))
    return ctypes.CDLL(str(target), mode=ctypes.RTLD_GLOBAL)


def _mutated(mutation: Mutation | None, tag: str) -> Path:
    """The sources, with one piece of text exchanged."""
    if mutation is None:
        return SOURCES
    folder = _folder() / f"src-{tag}"
    shutil.copytree(SOURCES, folder)
    found = 0
    for path in folder.iterdir():
        text = path.read_text("utf-8")
        found += text.count(mutation[0])
        path.write_text(text.replace(mutation[0], mutation[1]), "utf-8")
    assert found, f"nothing reads {mutation[0]!r}"
    return folder


@cache
def library(kernel: Kernel, tile: Tile, mutation: Mutation | None = None) -> ctypes.CDLL:
    """One variant, built once per session."""
    _core()
    tag = hashlib.sha256(repr((kernel.name, tile, mutation)).encode()).hexdigest()[:16]
    target = _folder() / f"{tag}.so"
    defined = [f"-D{name}={value}" for name, value in macros(kernel, tile)]
    named = [f'-DSOURCE="{kernel.source}"', f"-DENTRY={kernel.entry}"]
    includes = [f"-I{_mutated(mutation, tag)}", f"-I{EMULATOR}"]
    _build("-shared", *defined, *named, *includes, str(EMULATOR / "host.cpp"), "-o", str(target))
    built = ctypes.CDLL(str(target))
    built.emu_run.restype = ctypes.c_char_p
    return built


class Buffers:
    """The operands of a problem, each between guards."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem = problem
        self.raw: dict[str, Any] = {}
        self.arrays: dict[str, Any] = {}
        rng = np.random.default_rng(seed)
        for operand in problem.operands:
            size = operand.size_bytes
            store = np.full(size + 2 * GUARD_BYTES + 64, GUARD, np.uint8)
            start = GUARD_BYTES + -(store.ctypes.data + GUARD_BYTES) % 64
            inside = store[start : start + size]
            if operand.fill is not None:
                inside[:] = np.ascontiguousarray(operand.fill(rng, operand.length)).view(np.uint8).ravel()
            self.raw[operand.name] = (store, start, size)
            self.arrays[operand.name] = inside.view(operand.dtype).reshape(operand.shape)
        self.poison()
        for operand in problem.operands:
            if operand.role is Role.ZERO:
                self.arrays[operand.name][:] = 0

    def poison(self) -> None:
        for operand in self.problem.operands:
            if operand.role in (Role.OUTPUT, Role.SCRATCH):
                self.arrays[operand.name].view(np.uint8)[:] = POISON

    def register(self) -> None:
        core = _core()
        core.emu_clear()
        for operand in self.problem.operands:
            array = self.arrays[operand.name]
            writable = operand.role in (Role.OUTPUT, Role.SCRATCH, Role.ZERO)
            core.emu_buffer(ctypes.c_void_p(array.ctypes.data), ctypes.c_ulonglong(array.nbytes), int(writable))

    def intact(self) -> bool:
        return all(
            (store[:start] == GUARD).all() and (store[start + size :] == GUARD).all()
            for store, start, size in self.raw.values()
        )


def launch(kernel: Kernel, choice: Choice, buffers: Buffers, seed: int, mutation: Mutation | None = None) -> None:
    """One launch. Raises EmulatedFault."""
    built, problem, tile = library(kernel, choice.tile, mutation), buffers.problem, choice.tile
    buffers.register()
    held = [
        np.array([buffers.arrays[item].ctypes.data], np.uint64) if isinstance(item, str) else np.array([item])
        for item in problem.arguments
    ]
    pointers = (ctypes.c_void_p * max(1, len(held)))(*(array.ctypes.data for array in held))
    grid = (ctypes.c_uint * 3)(*problem.grid)
    said = built.emu_run(grid, tile.threads, ctypes.c_ulonglong(tile.shared_bytes), ctypes.c_uint(seed), pointers)
    if said:
        raise EmulatedFault(said.decode())


def error(kernel: Kernel, choice: Choice, shape: Any, seed: int = 1, mutation: Mutation | None = None) -> float:
    """Run twice on poisoned outputs (semaphores must return to zero); the worse error, or infinity on any fault."""
    buffers = Buffers(kernel.problem(choice, shape), seed)
    worst = 0.0
    for again in range(2):
        buffers.poison()
        try:
            launch(kernel, choice, buffers, seed + again, mutation)
        except EmulatedFault as fault:
            if mutation is None:
                raise
            return float("inf") if str(fault) else 0.0
        if not buffers.intact():
            return float("inf")
        worst = max(worst, error_of(buffers.problem, buffers.arrays))
    return worst
