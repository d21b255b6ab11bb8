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
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from planner.calibration.kernels.problem import Kernel, Tile
from planner.errors import PlannerError

SOURCES = Path(__file__).resolve().parent / "src"
PRIMITIVES = "prim.cuh"
STANDARD = "c++17"
ELF = b"\x7fELF"
CACHE_DIR = "PLANNER_CUBIN_DIR"  # environment variable


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


def compile_all(pairs: Iterable[tuple[Kernel, Tile]], cc: int, workers: int | None = None) -> list[bytes]:
    """Machine code of many variants, several at a time; in the order given. Raises CompileError."""
    compiler_version()
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda pair: cubin(pair[0], pair[1], cc), pairs))
