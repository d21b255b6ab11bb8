"""Kernels compiled at run time to machine code by NVRTC, and a cache of what has been compiled.

    code = cubin(kernel, tile, 90)     # seconds the first time, a file read afterwards

No driver and no GPU is needed to compile, no CUDA header and no nvcc at all. Machine code, not PTX: a newer NVRTC
serves an older driver of the same major version.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from planner.calibration.kernels.problem import Kernel, Tile
from planner.errors import PlannerError

SOURCES = Path(__file__).resolve().parent / "src"
PRIMITIVES = "prim.cuh"
STANDARD = "c++17"
ELF = b"\x7fELF"
CACHE_DIR = "PLANNER_CUBIN_DIR"  # environment variable
MOST_WORKERS = 16
LEAST_EACH = 4  # variants worth a process


class CompileError(PlannerError):
    """The compiler is missing or refuses a kernel."""


def cache_dir() -> Path:
    """Where machine code is kept: `PLANNER_CUBIN_DIR`, else the user's cache folder."""
    if given := os.environ.get(CACHE_DIR):
        return Path(given)
    from platformdirs import user_cache_path

    return user_cache_path("llm-capacity-planner") / "cubins"


@lru_cache
def compiler_version() -> tuple[int, int]:
    """Of NVRTC. Raises CompileError when cuda-core or NVRTC cannot be loaded."""
    try:
        from cuda.bindings import nvrtc
        from cuda.core import Program, ProgramOptions  # noqa: F401  # here, as two threads cannot import it at once

        result, major, minor = nvrtc.nvrtcVersion()
    except (ImportError, OSError, RuntimeError) as error:
        missing = f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else 'no message'}"
        raise CompileError(
            f"kernels cannot be compiled: NVRTC or cuda-core is missing ({missing}); install the extra cu13 (or cu12)"
        ) from None
    if int(result):
        raise CompileError(f"kernels cannot be compiled: NVRTC does not answer ({result})")
    return int(major), int(minor)


def macros(kernel: Kernel, tile: Tile) -> tuple[tuple[str, int], ...]:
    return (*kernel.macros, *tile.macros, ("THREADS", tile.threads), ("BLOCKS", tile.blocks))


@lru_cache
def source(name: str) -> str:
    return (SOURCES / name).read_text("utf-8")


def key(kernel: Kernel, tile: Tile, cc: int) -> str:
    """What the machine code depends on, hashed: sources, macros, target, compiler."""
    parts = (source(kernel.source), source(PRIMITIVES), repr(macros(kernel, tile)), str(cc), str(compiler_version()))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def compiled(kernel: Kernel, tile: Tile, cc: int) -> bytes:
    """Machine code from NVRTC, past the cache. Raises CompileError."""
    compiler_version()
    from cuda.core import Program, ProgramOptions

    options = ProgramOptions(
        arch=f"sm_{cc}",
        std=STANDARD,
        name=kernel.source,
        include_path=[str(SOURCES)],
        define_macro=[(name, str(value)) for name, value in macros(kernel, tile)],
    )
    try:
        return bytes(Program(source(kernel.source), "c++", options).compile("cubin").code)
    except Exception as error:  # cuda-core raises its own types, by version
        said = " ".join(str(error).split())[:300]
        raise CompileError(f"{kernel.name} ({tile.name}) does not compile for sm_{cc}: {said}") from None


def _stored(path: Path) -> bytes | None:
    """A file of the cache, if it is whole: it ends with the hash of what stands before."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    code, digest = data[:-32], data[-32:]
    return code if code.startswith(ELF) and hashlib.sha256(code).digest() == digest else None


def _store(path: Path, code: bytes) -> None:
    """Whole or not at all; a cache that cannot be written costs time, nothing else."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(code + hashlib.sha256(code).digest())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def cubin(kernel: Kernel, tile: Tile, cc: int) -> bytes:
    """Machine code for compute capability `cc` (90 for 9.0), from the cache or from NVRTC. Raises CompileError."""
    path = cache_dir() / f"{key(kernel, tile, cc)}.cubin"
    found = _stored(path)
    if found is None:
        found = compiled(kernel, tile, cc)
        _store(path, found)
    return found


def stored(kernel: Kernel, tile: Tile, cc: int) -> bytes | None:
    """Machine code that the cache holds."""
    return _stored(cache_dir() / f"{key(kernel, tile, cc)}.cubin")


def _start(variants: Iterable[tuple[Kernel, Tile]], cc: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "planner.calibration.kernels.warm", str(cc)]
    quiet = subprocess.DEVNULL
    found = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, text=True)
    assert found.stdin is not None
    with contextlib.suppress(BrokenPipeError), found.stdin:
        found.stdin.writelines(f"{kernel.name} {tile.name}\n" for kernel, tile in variants)
    return found


def compile_all(pairs: Iterable[tuple[Kernel, Tile]], cc: int, workers: int | None = None) -> list[bytes]:
    """Machine code of many catalogued variants, in the order given; by several processes where much is missing.

    Raises CompileError.
    """
    variants = list(pairs)
    compiler_version()
    missing = [variant for variant in variants if stored(*variant, cc) is None]
    count = min(workers or min(MOST_WORKERS, os.cpu_count() or 1), len(missing) // LEAST_EACH)
    running = [_start(missing[i::count], cc) for i in range(count)] if count > 1 else []
    try:
        for process in running:
            process.wait()
    finally:
        for process in running:
            process.kill()
            process.wait()
    return [cubin(*variant, cc) for variant in variants]
