"""Bundled kernels on a GPU: every tile at odd and at real shapes, against double precision, eager and captured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.calibration.kernels.catalogue import KERNELS, kernel_named
from planner.calibration.kernels.launch import Launcher, LaunchError
from planner.calibration.kernels.problem import Decode, Gemm, Grouped, Kernel, Latent, Nothing, Stream

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kernels"))
from conformance import CASES
from conformance import kernel as conformance_kernel
from shapes import shapes_of

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]  # those of the installed torch are its own
torch = pytest.importorskip("torch")

GOLDEN = Path(__file__).resolve().parents[1] / "kernels" / "golden"
REAL: dict[type[Any], tuple[Any, ...]] = {
    Gemm: (Gemm(1, 4096, 4096), Gemm(16, 6144, 4096), Gemm(64, 4096, 14336), Gemm(200, 5120, 2048)),
    Grouped: (Grouped(1, 768, 2048, 128, 8), Grouped(64, 768, 2048, 32, 8)),
    Decode: (Decode(1, 8192, 32, 8, 128), Decode(16, 2048, 32, 8, 128)),
    Latent: (Latent(4, 4096, 128),),
    Stream: (Stream(64 * 2**20),),
    Nothing: (),
}
MOST_FEW_TOKENS = 8  # of kernels that dot rows with integers


def _name(item: Any) -> str:
    return str(getattr(item, "name", item))


@pytest.fixture(scope="module")
def launcher() -> Launcher:
    try:
        return Launcher(0)
    except LaunchError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("kernel", KERNELS, ids=_name)
def test_every_tile_is_right(kernel: Kernel, launcher: Launcher) -> None:
    limits, wrong, tried = launcher.limits, [], 0
    if limits.cc < kernel.min_cc:
        pytest.skip(f"needs compute capability {kernel.min_cc}")
    real = REAL[kernel.shape]
    for shape in (*shapes_of(kernel), *real):
        for choice in kernel.choices(shape, limits):
            prepared = launcher.prepare(kernel, choice, shape)
            ends = (0, prepared.problem.parts - 1) if shape in real else None  # references take the host's time
            found = prepared.check(parts=ends)
            tried += 1
            if not found.passed:
                wrong.append((choice.tile.name, choice.splits, shape, found))
    assert tried
    assert not wrong


@pytest.mark.parametrize("name", ["w4a16", "mma-bf16", "decode-bf16", "stream-copy"])
def test_a_launch_can_be_captured_over_rotated_buffers(name: str, launcher: Launcher) -> None:
    kernel = kernel_named(name)
    shape = REAL[kernel.shape][0]
    prepared = launcher.prepare(kernel, kernel.choices(shape, launcher.limits)[0], shape, copies=3)
    assert prepared.check(copy=2).passed
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    prepared.poison()
    with torch.cuda.graph(graph, stream=stream):
        for copy in range(3):
            prepared.run(torch.cuda.current_stream(), copy)
    graph.replay()
    torch.cuda.synchronize()
    from planner.calibration.kernels.problem import error_of

    assert error_of(prepared.problem, prepared.arrays(2), [0]) <= prepared.problem.tolerance


def test_products_agree_with_torch_in_double_precision(launcher: Launcher) -> None:
    kernel, shape = kernel_named("mma-bf16"), Gemm(130, 512, 1024)
    for choice in kernel.choices(shape, launcher.limits):
        prepared = launcher.prepare(kernel, choice, shape)
        prepared.check()
        x, w = (prepared.tensors[name][0].view(torch.bfloat16).double() for name in ("x", "weights"))
        want = x @ w[0].T
        got = prepared.tensors["y"][0].view(torch.bfloat16).double()
        assert (got - want).abs().max() <= prepared.problem.tolerance * want.abs().max()


def test_attention_agrees_with_torch_in_double_precision(launcher: Launcher) -> None:
    kernel, shape = kernel_named("decode-bf16"), Decode(3, 500, 16, 4, 128)
    prepared = launcher.prepare(kernel, kernel.choices(shape, launcher.limits)[0], shape)
    prepared.check()
    tensors = {name: found[0] for name, found in prepared.tensors.items()}
    pages = tensors["tables"].long()
    keys, values = (
        tensors[name].view(torch.bfloat16)[pages].double().flatten(1, 2)[:, :500].transpose(1, 2)
        for name in ("keys", "values")
    )
    q = tensors["q"].view(torch.bfloat16).double().unsqueeze(2)
    want = torch.nn.functional.scaled_dot_product_attention(
        q, keys.repeat_interleave(4, dim=1), values.repeat_interleave(4, dim=1)
    ).squeeze(2)
    got = tensors["out"].view(torch.bfloat16).double()
    assert (got - want).abs().max() <= prepared.problem.tolerance * want.abs().max()


@pytest.mark.parametrize("name", CASES)
def test_primitives_do_what_the_emulator_does(name: str, launcher: Launcher) -> None:
    """With `GOLDEN_DIR` set the raw results are written there, to be committed as vectors for the emulator."""
    import os

    kernel = conformance_kernel(name)
    if launcher.limits.cc < kernel.min_cc:
        pytest.skip(f"needs compute capability {kernel.min_cc}")
    prepared = launcher.prepare(kernel, kernel.choices(Nothing(), launcher.limits)[0], Nothing())
    assert prepared.check().passed
    if folder := os.environ.get("GOLDEN_DIR"):
        words = {key: np.asarray(prepared.arrays()[key][:]).tolist() for key in ("in", "out")}
        Path(folder, f"{name}.json").write_text(json.dumps({"cc": launcher.limits.cc, **words}), "utf-8")
