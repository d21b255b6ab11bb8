"""Fine-tuning memory against papers, PEFT's own counts and what autograd keeps."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.catalog import finetune as constants
from planner.catalog.finetune_runs import read_runs, run_of, runs_from_flags
from planner.catalog.formats import weight_format
from planner.catalog.models import from_bytes, model
from planner.cli.main import run as cli
from planner.errors import BadFile, BadValue, UnknownName
from planner.finetuning import FinetuneAnswer, estimate_finetune, plan_of
from planner.finetuning.resolve import resolve
from planner.formats import weight_bytes
from planner.specs.finetune import FinetuneScenario
from planner.training import Batch, Division
from planner.training.activations import layer_bytes
from planner.training.adapters import adapter_parameters, factored_values
from planner.training.peak import chunks
from planner.training.states import Trained, gradient_bytes, optimizer_bytes, shard
from planner.units import GB, GIB

LLAMA = "meta-llama/Meta-Llama-3.1-8B"


def answer(**columns: Any) -> FinetuneAnswer:
    found = estimate_finetune(FinetuneScenario(**({"model": LLAMA} | columns))).answers[0]
    assert not found.error, found.error
    return found


def gib(value: float | None) -> float:
    assert value is not None
    return value


# Trainable parameters as peft 0.21.2 counts them on the classes of transformers 5.23 (meta device); the first is
# the well-known 4.2 M of Llama-2-7B at the LoRA paper's rank 8 on queries and values.
@pytest.mark.parametrize(
    ("name", "rank", "targets", "count"),
    [
        ("meta-llama/Llama-2-7b-hf", 8, "q_proj,v_proj", 4_194_304),
        (LLAMA, 8, "q_proj,v_proj", 3_407_872),
        (LLAMA, 16, "all-linear", 41_943_040),
        ("Qwen/Qwen2.5-7B-Instruct", 64, "all-linear", 161_480_704),
        ("google/gemma-2-9b-it", 16, "all-linear", 54_018_048),
        ("google/gemma-2-9b-it", 32, "gate_proj,up_proj,down_proj", 72_253_440),
    ],
)
def test_adapters_have_the_parameters_that_peft_counts(name: str, rank: int, targets: str, count: int) -> None:
    assert adapter_parameters(model(name), constants.targets(targets), rank) == count


def test_a_module_that_holds_q_k_and_v_has_one_adapter() -> None:
    spec = model("Qwen/Qwen-7B")
    fused = adapter_parameters(spec, constants.targets("c_attn"), 64)
    assert fused == 32 * 64 * (4096 + 3 * 4096)  # Qwen-7B: 32 layers of width 4096, c_attn [12288, 4096]


# ZeRO paper (arXiv:1910.02054) figure 1: 7.5 billion parameters, Adam in mixed precision, 64 GPUs.
@pytest.mark.parametrize(("sharding", "gb"), [("none", 120), ("zero1", 31.4), ("zero2", 16.6), ("zero3", 1.9)])
def test_model_states_are_those_of_the_zero_paper(sharding: str, gb: float) -> None:
    adam, widths = constants.optimizer("adamw"), constants.constants().precisions["master"]
    trained, division = Trained(7.5e9, 0, 0, widths), Division(sharding, 64)
    weights = widths.parameter * trained.parameters * shard(sharding, ("zero3",), 64)
    states = optimizer_bytes(trained, adam) * shard(sharding, ("zero1", "zero2", "zero3"), 64)
    total = float(weights + gradient_bytes(trained, division) + states)
    assert total / GB == pytest.approx(gb, rel=0.02)


def test_mixed_precision_takes_eighteen_bytes_per_parameter() -> None:
    run = answer(method="full", optimizer="adamw")  # Transformers docs, model training anatomy: 6 + 4 + 8
    assert gib(run.model_states_gib) * GIB / (run.parameters or 0) == pytest.approx(18)


def test_double_quantization_saves_the_qlora_papers_bits() -> None:
    spec = model("huggyllama/llama-65b")  # arXiv:2305.14314 section 3: 0.373 bits per parameter, about 3 GB
    saved = weight_bytes(spec, weight_format("bnb-nf4")) - weight_bytes(spec, weight_format("bnb-nf4-dq"))
    quantized = spec.n_layers * (4 * 8192**2 + 3 * 8192 * 22016)
    assert 8 * saved / quantized == pytest.approx(0.373, abs=0.001)


@pytest.mark.parametrize(("name", "gpu"), [("huggyllama/llama-65b", "a6000"), ("huggyllama/llama-30b", "rtx4090")])
def test_qlora_trains_the_papers_models_on_the_papers_cards(name: str, gpu: str) -> None:
    # arXiv:2305.14314: 65B on one 48 GB card, 33B on 24 GB; rank 64 on all layers, paged optimizer, length 512.
    run = answer(
        model=name, method="qlora", gpu=gpu, lora_rank=64, seq_len=512, optimizer="paged_adamw_32bit", precision="bf16"
    )
    assert run.fits


def test_sixteen_bit_training_of_65b_takes_the_780_gb_that_qlora_names() -> None:
    run = answer(model="huggyllama/llama-65b", method="full", precision="master", sharding="none")
    assert gib(run.model_states_gib) * GIB > 780 * GB


def test_lora_trains_without_states_for_the_frozen_base() -> None:
    run = answer(method="lora", precision="master")
    assert gib(run.model_states_gib) - gib(run.weights_gib) == pytest.approx(16 * 41_943_040 / GIB)


def test_eight_bit_adam_takes_two_bytes_and_paged_states_may_leave() -> None:
    eight, paged = answer(method="full", optimizer="adamw_8bit"), answer(method="full", optimizer="paged_adamw_8bit")
    assert gib(eight.optimizer_gib) * GIB / (eight.parameters or 0) == pytest.approx(2.03, abs=0.01)
    assert paged.optimizer_gib == 0


def test_adafactor_keeps_rows_and_columns() -> None:
    spec = model("meta-llama/Llama-2-7b-hf")
    assert factored_values(spec, None, 0) < 0.001 * 6.74e9


def test_the_peak_is_a_maximum_not_a_sum() -> None:
    run = answer(method="full", precision="master", seq_len=512)
    stays = gib(run.weights_gib) + gib(run.optimizer_gib) + gib(run.buffers_gib)
    moments = gib(run.activations_gib) + gib(run.loss_gib), gib(run.gradients_gib) + gib(run.layer_gib)
    assert gib(run.peak_allocated_gib) == pytest.approx(stays + max(*moments, gib(run.gradients_gib)))


def test_checkpointing_keeps_the_inputs_of_layers() -> None:
    kept = {name: gib(answer(gradient_checkpointing=name).activations_gib) for name in ("none", "full", "offloaded")}
    assert kept["full"] * GIB == 32 * 2 * 4096 * 2048  # layers x bytes x width x tokens
    assert kept["offloaded"] < kept["full"] < kept["none"] / 10


def test_scores_grow_with_the_square_of_the_length() -> None:
    short, long = (answer(flash_attention=False, gradient_checkpointing="none", seq_len=n) for n in (2048, 4096))
    assert gib(long.activations_gib) > 2.5 * gib(short.activations_gib)


def test_a_chunked_loss_of_unsloth_never_exceeds_its_cap() -> None:
    loss = constants.loss("unsloth")
    logits = np.array([32768 * 65536, 2048 * 65536])  # cases of unsloth_zoo's own tests: chunked, one chunk
    counts = np.asarray(chunks(loss, logits, 180 * GIB))
    assert counts[1] == 1
    assert 16 * logits[0] / counts[0] <= 4 * GIB


@given(st.integers(1, 16), st.integers(64, 16384), st.sampled_from(["none", "full", "offloaded"]))
def test_memory_grows_with_batch_and_length(batch: int, length: int, checkpointing: str) -> None:
    row = resolve(FinetuneScenario(model=LLAMA, gradient_checkpointing=checkpointing))  # type: ignore[arg-type]
    less, more = plan_of(row, batch, length), plan_of(row, batch + 1, length + 64)
    assert less.device < more.device


def test_a_scalar_equals_its_place_in_an_array() -> None:
    from planner.training import finetune_plan

    row, shared = resolve(FinetuneScenario(model=LLAMA)), constants.constants().shared
    lengths = np.array([512, 4096, 8192])
    many = finetune_plan(row.model, row.recipe, Division("none", 1), Batch(2, lengths, 1), shared)
    assert [float(plan_of(row, 2, int(n)).device) for n in lengths] == pytest.approx(many.device.tolist())


def test_what_is_said_to_fit_still_fits_and_one_more_does_not() -> None:
    run = answer(method="qlora", gpu="rtx4090")
    assert answer(method="qlora", gpu="rtx4090", seq_len=run.max_seq_len).fits
    assert not answer(method="qlora", gpu="rtx4090", seq_len=(run.max_seq_len or 0) + 1).fits
    assert not answer(method="qlora", gpu="rtx4090", batch_size=(run.max_batch_size or 0) + 1).fits


def test_more_gpus_shard_more() -> None:
    peaks = [gib(answer(method="full", sharding="zero3", n_gpus=n).peak_gib) for n in (2, 4, 8, 64)]
    assert peaks == sorted(peaks, reverse=True)


KINDS = (
    "Qwen/Qwen3-30B-A3B deepseek-ai/DeepSeek-V2-Lite Qwen/Qwen3-Next-80B-A3B-Instruct "
    "nvidia/Nemotron-H-56B-Base-8K google/gemma-3n-E4B-it BAAI/bge-m3"
).split()


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_architecture_has_an_answer(name: str) -> None:
    for method in ("full", "lora", "qlora"):
        run = answer(model=name, method=method, sharding="none")
        assert gib(run.peak_gib) > gib(run.weights_gib) > 0


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({}, "'model' is blank"),
        ({"model": LLAMA, "lora_targets": "q_prj"}, "did you mean 'q_proj'"),
        ({"model": LLAMA, "optimizer": "adamww"}, "unknown optimizer"),
        ({"model": LLAMA, "method": "full", "lora_rank": 8}, "lora_rank"),
        ({"model": LLAMA, "method": "full", "weight_format": "bnb-nf4"}, "use qlora"),
        ({"model": LLAMA, "method": "qlora", "weight_format": "bf16"}, "not quantized"),
        ({"model": LLAMA, "optimizer_in_backward": True, "grad_accum": 4}, "grad_accum"),
    ],
)
def test_a_contradiction_is_one_line_that_names_the_column(columns: dict[str, Any], says: str) -> None:
    error = estimate_finetune(FinetuneScenario(**columns)).answers[0].error
    assert error is not None
    assert says in error
    assert "\n" not in error


def test_flags_span_a_grid_and_refuse_what_they_cannot_read() -> None:
    grid = runs_from_flags({"model": LLAMA, "seq_len": "512:4096:x2", "method": "lora,qlora"})
    assert [run.seq_len for run in grid[::2]] == [512, 1024, 2048, 4096]
    with pytest.raises(BadValue, match="seq_len"):
        run_of({"seq_len": "2k"})
    with pytest.raises(UnknownName, match="did you mean 'seq_len'"):
        run_of({"seq_lenn": "2048"})


def test_the_command_answers_in_json_and_exits_as_the_contract_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["finetune", "--model", LLAMA, "--method", "qlora", "--gpu", "l4", "--seq-len", "512", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["fits"] is True
    assert found["trained_parameters"] == 41_943_040
    assert cli(["finetune", "--model", LLAMA, "--method", "full", "--gpu", "t4", "--require", "fits"]) == 3
    assert cli(["finetune", "--model", LLAMA, "--gpu", "t5000x"]) == 2
    assert capsys.readouterr().err.count("\n") == 2  # one line for the unmet wish, one for the unknown card


def test_a_bad_row_of_a_file_stops_no_other(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(f"model,seq_len\n{LLAMA},abc\n{LLAMA},512\n", "utf-8")
    assert cli(["finetune", "--scenarios", str(path), "--json"]) == 2
    first, second = json.loads(capsys.readouterr().out)
    assert "seq_len 'abc'" in first["error"]
    assert second["peak_gib"] > 0
    with pytest.raises(BadFile):
        read_runs(str(tmp_path / "runs.txt"))


ORACLE = {"hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8, "num_key_value_heads": 2,
          "head_dim": 64, "vocab_size": 1000, "attn_implementation": "sdpa"}  # fmt: skip
ROUTED = {
    "Mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "Qwen3Moe": {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256},
}


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "tolerance"),
    [("Llama", 0.01), ("Qwen2", 0.01), ("Mistral", 0.01), ("Mixtral", 0.01), ("Qwen3", 0.06), ("Qwen3Moe", 0.06)],
)
def test_a_layer_keeps_the_bytes_that_autograd_saves(family: str, tolerance: float) -> None:
    pytest.importorskip("transformers")
    spec, two = _built(family, 2)
    saved = (_saved_bytes(_built(family, 6)[1]) - _saved_bytes(two)) / 4 / 64
    total, _ = layer_bytes(spec, constants.framework("transformers").layer, 0, 0.0)
    assert float(total) / 2 == pytest.approx(saved, rel=tolerance)


def _built(family: str, layers: int) -> tuple[Any, Any]:
    import torch
    import transformers

    name = f"{family}ForCausalLM"
    config = getattr(transformers, f"{family}Config")(**ORACLE, **ROUTED.get(family, {}), num_hidden_layers=layers)
    spec = from_bytes(config.to_dict() | {"architectures": [name]}, family)
    return spec, getattr(transformers, name)(config).to(torch.bfloat16).train()


def _saved_bytes(network: Any, tokens: int = 64) -> int:
    """Bytes of all storages that the forward pass saves for the backward pass, weights aside."""
    import torch

    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    saved: dict[int, tuple[int, Any]] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held = network.model(input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    assert held is not None
    return sum(size for size, _ in saved.values())
