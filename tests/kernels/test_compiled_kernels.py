"""Every kernel in every tile compiles to machine code that keeps to the device's registers and shared memory.

Needs NVRTC and cuda-core (extra cu13 or cu12), no driver and no GPU. `KERNEL_TARGETS=75,80,...` chooses targets;
without it one target sees every tile and two others a third of them, the last of each kernel, which needs most, too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from conformance import CASES
from conformance import kernel as conformance_kernel
from cubin import resources

from planner.calibration.kernels.catalogue import KERNELS, kernel_named
from planner.calibration.kernels.compile import CACHE_DIR, CompileError, compile_all, compiled, compiler_version, cubin
from planner.calibration.kernels.problem import Kernel, Tile

pytest.importorskip("cuda.core", reason="needs the extra cu13 or cu12")
try:
    VERSION = compiler_version()
except CompileError as missing:
    pytest.skip(str(missing), allow_module_level=True)

CHOSEN = os.environ.get("KERNEL_TARGETS")
TARGETS = tuple(int(cc) for cc in (CHOSEN or "80,90,120").split(","))
EVERY_TILE = TARGETS if CHOSEN else (90,)
# Shared memory a block may have, of the compute capability (CUDA programming guide, technical specifications).
SHARED_BYTES = {75: 64, 80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 110: 227, 120: 99, 121: 99}
REGISTERS_PER_BLOCK, MOST_REGISTERS = 65536, 255
NEWEST = {100: (12, 8), 103: (12, 9), 120: (12, 8), 121: (12, 9), 110: (13, 0)}  # NVRTC that knows them first


def _name(item: Any) -> str:
    return str(getattr(item, "name", item))


def _known(cc: int) -> bool:
    return NEWEST.get(cc, (0, 0)) <= VERSION


@pytest.mark.parametrize("cc", TARGETS)
@pytest.mark.parametrize("kernel", KERNELS, ids=_name)
def test_no_tile_spills_or_asks_for_more_than_there_is(kernel: Kernel, cc: int) -> None:
    if not _known(cc):
        pytest.skip(f"NVRTC {VERSION} does not know sm_{cc}")
    wrong, tiles = [], kernel.tiles_for(cc)
    for tile in tiles if cc in EVERY_TILE else tiles[::-3]:
        found = resources(compiled(kernel, tile, cc), kernel.entry)
        per_block = found.registers * tile.threads * tile.blocks
        if found.stack_bytes or found.static_shared_bytes or per_block > REGISTERS_PER_BLOCK:
            wrong.append((tile.name, found))
    assert not wrong


@pytest.mark.parametrize("cc", TARGETS)
@pytest.mark.parametrize("kernel", KERNELS, ids=_name)
def test_some_tile_of_every_kernel_fits_the_shared_memory(kernel: Kernel, cc: int) -> None:
    sizes = [tile.shared_bytes for tile in kernel.tiles_for(cc)]
    assert cc < kernel.min_cc or min(sizes) <= SHARED_BYTES[cc] * 1024


@pytest.mark.parametrize("name", CASES)
def test_conformance_kernels_compile_from_their_first_target(name: str) -> None:
    kernel = conformance_kernel(name)
    for cc in {kernel.min_cc, *(cc for cc in TARGETS if cc >= kernel.min_cc)}:
        assert resources(compiled(kernel, kernel.tiles[0], cc), kernel.entry).stack_bytes == 0


def test_a_spill_is_seen() -> None:
    """The reader of machine code itself: FP8 tiles kept from Hopper do spill there."""
    kernel = kernel_named("mma-fp8")
    tile = next(tile for tile in kernel.tiles if tile.targets)
    assert resources(compiled(kernel, tile, 90), kernel.entry).stack_bytes > 0
    assert resources(compiled(kernel, tile, 89), kernel.entry).stack_bytes == 0


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_DIR, str(tmp_path / "cubins"))
    return tmp_path / "cubins"


def test_machine_code_is_compiled_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = kernel_named("empty")
    first = cubin(kernel, kernel.tiles[0], 90)
    monkeypatch.setattr("planner.calibration.kernels.compile.compiled", lambda *_: pytest.fail("compiled again"))
    assert cubin(kernel, kernel.tiles[0], 90) == first
    assert len(list(cache.iterdir())) == 1


def test_a_damaged_cache_file_is_compiled_anew(cache: Path) -> None:
    kernel = kernel_named("empty")
    first = cubin(kernel, kernel.tiles[0], 90)
    (path,) = cache.iterdir()
    for damage in (first[:100], b"", first[:-1] + b"x" + path.read_bytes()[len(first) :]):
        path.write_bytes(damage)
        assert cubin(kernel, kernel.tiles[0], 90) == first


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv(CACHE_DIR, str(blocked))
    kernel = kernel_named("empty")
    assert cubin(kernel, kernel.tiles[0], 90).startswith(b"\x7fELF")


def test_many_variants_compile_in_several_processes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = kernel_named("gguf-q4_k")
    pairs = [(kernel, tile) for tile in kernel.tiles]
    here = compiled(kernel, kernel.tiles[-1], 90)
    monkeypatch.setattr("planner.calibration.kernels.compile.compiled", lambda *_: pytest.fail("compiled here"))
    found = compile_all(pairs, 90, workers=2)
    assert len(found) == len(set(found)) == len(kernel.tiles)
    assert found[-1] == here


def test_names_of_tiles_tell_them_apart() -> None:
    for kernel in KERNELS:
        assert len({tile.name for tile in kernel.tiles}) == len(kernel.tiles)


def test_a_kernel_that_does_not_compile_is_named(cache: Path) -> None:
    kernel = kernel_named("w4a16")
    broken = Tile((*kernel.tiles[0].macros, ("STAGES", 1)), kernel.tiles[0].threads, 1)
    with pytest.raises(CompileError, match=r"w4a16 .* does not compile for sm_90"):
        cubin(kernel, broken, 90)
