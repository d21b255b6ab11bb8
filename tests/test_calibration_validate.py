from collections.abc import Callable
from timeit import timeit
from typing import Any

import pytest

from planner.calibration.transformer import Setting, Transformer, check_supported, routed
from planner.calibration.validate import Instruments, Predictor, Shape, compare, shapes
from planner.catalog.gpus import gpu
from planner.errors import BadValue
from planner.ops.products import popular_experts
from planner.specs.model import DenseFfn, ModelSpec, MoeFfn
from tests.oracle.models import GQA, MLA, build

torch = pytest.importorskip("torch")

TINY = build(GQA.model_copy(update={"n_heads": 4, "n_kv_heads": 2, "head_dim": 16}), DenseFfn(intermediate=128), 2)
TINY = TINY.model_copy(update={"hidden_size": 64, "vocab_size": 256})
MOE = TINY.model_copy(update={"ffns": (MoeFfn(n_experts=4, top_k=2, intermediate=32),)})
CPU = Setting(torch, torch.device("cpu"), "bf16")
H200 = gpu("h200-sxm")


def cpu_s(step: Callable[[], Any]) -> float:
    """Seconds of one step."""
    return timeit(step, number=1)


@pytest.mark.parametrize("model", [TINY, MOE], ids=["dense", "experts"])
def test_the_runner_holds_exactly_the_models_matrices(model: ModelSpec) -> None:
    held = Transformer(model, CPU).held_bytes
    predicted = Predictor(model, "bf16", H200, None).weight_bytes()
    assert held == pytest.approx(predicted, rel=0.02)  # norms and router biases apart


def test_tied_embeddings_are_held_once() -> None:
    tied = TINY.model_copy(update={"tie_embeddings": True})
    assert Transformer(TINY, CPU).held_bytes - Transformer(tied, CPU).held_bytes == 256 * 64 * 2


@pytest.mark.parametrize("model", [TINY, MOE], ids=["dense", "experts"])
def test_steps_are_predicted_and_measured(model: ModelSpec) -> None:
    wanted = [Shape("decode", 2, 16), Shape("prefill", 1, 32)]
    rows = compare(Predictor(model, "bf16", H200, None), CPU, wanted, Instruments(cpu_s))
    assert [(row.phase, row.batch, row.tokens) for row in rows] == [tuple(shape) for shape in wanted]
    assert all(row.predicted_s > 0 and row.measured_s > 0 for row in rows)
    assert all(row.predicted_bytes == pytest.approx(row.measured_bytes, rel=0.02) for row in rows)


def test_a_decode_step_reads_every_layers_cache() -> None:
    runner = Transformer(TINY, CPU)
    before = runner.held_bytes
    runner.decode(3, 20)()
    keys_and_values, layers, half = 2, 2, 2
    assert runner.held_bytes - before == keys_and_values * layers * half * 3 * 2 * 20 * 16


def test_a_step_multiplies_what_the_model_says() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    step = Transformer(TINY, CPU).prefill(1, 32)
    with FlopCounterMode(display=False) as counter:
        step()
    layer = 2 * 32 * 64 * (64 + 2 * 32 + 64 + 3 * 128)  # qkv, output, gate, up, down; torch counts no attention here
    assert counter.get_total_flops() == 2 * layer + 2 * 64 * 256


@pytest.mark.parametrize(("tokens", "experts", "active"), [(1, 128, 8), (16, 128, 8), (64, 64, 6)])
def test_tokens_meet_as_many_experts_as_the_planner_expects(tokens: int, experts: int, active: int) -> None:
    counts = routed(tokens, experts, active)
    assert sum(counts) == tokens * active and max(counts) <= tokens
    met = sum(count > 0 for count in counts)
    assert met == pytest.approx(popular_experts(experts, active, tokens), rel=0.15)


def test_only_steps_whose_cache_fits_are_run() -> None:
    some = list(shapes(TINY, 2 * 1024 * 2 * 2 * 2 * 16 * 2))
    assert {s.tokens for s in some if s.phase == "decode"} == {512} and any(s.phase == "prefill" for s in some)


def test_other_layers_are_refused_by_name() -> None:
    with pytest.raises(BadValue, match="plain attention"):
        check_supported(build(MLA))
    with pytest.raises(BadValue, match="validated are"):
        Transformer(TINY, CPU._replace(weight_format="bnb-nf4"))


def test_predictions_are_those_of_the_engine_without_overheads() -> None:
    small, large = (Predictor(TINY, "bf16", H200, None).step_s(Shape("decode", b, 512)) for b in (1, 64))
    assert 0 < small < large
