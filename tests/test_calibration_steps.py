"""`planner validate` predicts the sum of the launches that its runner makes: without a GPU, on a fake one's times."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from planner.calibration.fit import fit
from planner.calibration.kernels.catalogue import kernel_named
from planner.calibration.kernels.problem import Decode, Gemm, Grouped
from planner.calibration.run import Plan, calibrate, opened
from planner.calibration.suite import anchor, cases
from planner.calibration.transformer import EXPERT_KERNELS, FORMATS, routed
from planner.calibration.validate import Predictor, Shape
from planner.catalog import models
from planner.catalog.calibrated import Source
from planner.catalog.formats import weight_format
from planner.catalog.gpus import gpu
from planner.catalog.rates import Evidence
from planner.formats import is_quantized
from planner.ops import Slot
from planner.ops.products import Group, groups
from planner.specs.model import ModelSpec, MoeFfn
from planner.specs.run import Mode
from tests.calibration_victim import MACHINE
from tests.fake_gpu import FakeDevice

DEVICE, H200 = FakeDevice(), gpu("h200-sxm")
STEPS = (Shape("decode", 1, 512), Shape("decode", 32, 4096), Shape("prefill", 1, 2048))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    suite, repeated = cases(DEVICE.able), anchor(DEVICE.able, Mode.FULL)
    plan = Plan(H200.id, MACHINE, Mode.FULL, suite, repeated, Path(tmp_path_factory.mktemp("runs")))
    run = calibrate(plan, DEVICE, opened(plan, False, datetime.now(UTC)), pause=lambda seconds: None)
    return Source(fit(run, H200), H200, Evidence.MEASURED)


def launch_s(size_bytes: float, flops: float = 0.0) -> float:
    """A kernel on the fake GPU."""
    return DEVICE.t0_s + max(size_bytes / DEVICE.bandwidth, flops / DEVICE.flops)


def bundled_s(name: str, *shapes: Gemm | Grouped | Decode) -> float:
    """Launches that the suite times as one."""
    kernel = kernel_named(name)
    found = [kernel.problem(kernel.choices(shape, DEVICE.able.limits)[0], shape) for shape in shapes]
    return launch_s(sum(problem.size_bytes for problem in found), sum(problem.flops for problem in found))


def product_s(model: ModelSpec, format_id: str, group: Group, rows: int) -> float:
    first, k = group.members[0], group.members[0].k
    n = sum(tensor.n * tensor.k for tensor in group.members) // k
    packed = is_quantized(model, first, weight_format(format_id))
    if group.slot is Slot.EXPERT_GEMM:
        experts, inner = (int(first.copies), int(first.active)), n // 3
        counts = routed(rows, *experts)
        parts = Grouped(rows, 2 * inner, k, *experts, counts), Grouped(rows, k, inner, *experts, counts)
        return bundled_s(EXPERT_KERNELS[format_id], *parts)
    if packed and FORMATS[format_id]:
        return bundled_s(FORMATS[format_id], Gemm(rows, n, k))
    width = 1 if packed and format_id == "fp8" else 2
    return launch_s(width * (n * k + rows * k) + 2 * rows * n, 2 * rows * n * k)


def step_s(model: ModelSpec, format_id: str, shape: Shape) -> float:
    """The runner's launches one by one (`planner.calibration.transformer`)."""
    rows, mixer, ffn, h = shape.batch, model.mixers[0], model.ffns[0], model.hidden_size
    if shape.phase == "decode":
        cached = Decode(shape.batch, shape.tokens, mixer.n_heads, mixer.n_kv_heads, mixer.head_dim)
        attention = bundled_s("decode-bf16", cached)
    else:
        rows *= shape.tokens
        moved = rows * mixer.head_dim * 4 * (mixer.n_kv_heads + mixer.n_heads)
        attention = launch_s(moved, rows * (shape.tokens + 1) / 2 * 4 * mixer.n_heads * mixer.head_dim)
    inner = ffn.intermediate * (ffn.top_k if isinstance(ffn, MoeFfn) else 1)
    rotated = (mixer.n_heads + 2 * mixer.n_kv_heads) * mixer.head_dim
    small = model.norms_per_layer * launch_s(8 * rows * h) + launch_s(4 * rows * rotated) + launch_s(6 * rows * inner)
    products = sum(
        group.layers * product_s(model, format_id, group, rows if group.members[0].layers else shape.batch)
        for group in groups(model)
    )
    logits = shape.batch * model.vocab_size
    ends = launch_s(4 * rows * h) + launch_s(6 * logits) + launch_s(4 * logits) + launch_s(0)
    return products + model.n_layers * (attention + small) + ends


@pytest.mark.parametrize("format_id", list(FORMATS))
@pytest.mark.parametrize(("name", "allowed"), [("llama-3.1-8b", 0.03), ("Qwen/Qwen3-30B-A3B", 0.06)])
def test_a_step_is_predicted_as_the_sum_of_its_launches(
    name: str, allowed: float, format_id: str, source: Source
) -> None:
    """Experts: the planner takes the mean over routings, the runner has one."""
    model = models.model(name)
    predictor = Predictor(model, format_id, H200, source)
    for shape in STEPS:
        assert predictor.step_s(shape) == pytest.approx(step_s(model, format_id, shape), rel=allowed), shape
