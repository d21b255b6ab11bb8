"""The Fine-tuning page: what the estimator says, kept in the address, whatever a link holds."""

from __future__ import annotations

import json

import pytest

from links import Names
from planner.explain.training import training_verdict
from planner.finetuning import estimate_finetune
from planner.specs.finetune import FinetuneScenario
from tests.pages import CONFIG, FINETUNING, PAGES, opened, shown, uploaded
from training import FIRST, query_of, read

NO_NAMES = Names()


def test_the_verdict_is_the_estimators() -> None:
    row = estimate_finetune(FIRST).rows()[0]
    at = opened(FINETUNING)
    assert training_verdict(row).sentence in shown(at)
    assert [tile.label for tile in at.metric] == ["Peak, GiB", "Longest sequence", "Largest micro-batch", "Trained"]


def test_a_run_survives_its_own_address() -> None:
    run = FinetuneScenario(
        model="Qwen/Qwen3-8B", gpu="l40s", n_gpus=4, method="lora", lora_rank=64, sharding="fsdp", compile=True
    )
    assert read(query_of(run), NO_NAMES) == (run, ())


def test_a_link_of_nonsense_is_named_and_the_rest_is_used() -> None:
    bad = {
        "model": "../../etc/passwd",
        "gpu": "<img src=x>",
        "seq_len": "1e400",
        "nonsense": "1",
        "v": "7",
        "lora_rank": "8",
    }
    found = read({name: [text] for name, text in bad.items()}, NO_NAMES)
    assert found.run.lora_rank == 8 and found.run.model == FIRST.model
    assert len(found.dropped) == 5
    assert all(
        any(word in line for line in found.dropped) for word in ("passwd", "img", "1e400", "nonsense", "version")
    )


def test_a_change_of_the_method_drops_what_only_the_other_has() -> None:
    at = opened(FINETUNING)
    at.segmented_control(key="t_method").set_value("full").run()
    assert not at.exception
    assert at.error[0].proto.title.startswith("Does not fit")
    assert "full" in at.query_params["method"]
    at.segmented_control(key="t_method").set_value("qlora").run()
    assert not at.error


def test_a_button_makes_it_fit() -> None:
    at = opened(FINETUNING)
    at.number_input(key="t_seq_len").set_value(65536).run()
    assert at.error
    next(item for item in at.button if "sequences of" in item.label).click().run()
    assert not at.error and not at.exception


def test_pages_keep_their_own_scenarios() -> None:
    at = opened(model="Qwen/Qwen3-8B", gpu="l4", concurrency="5")
    at.switch_page(FINETUNING).run()
    at.number_input(key="t_seq_len").set_value(1000).run()
    at.switch_page(PAGES[0]).run()
    assert at.number_input(key="f_concurrency").value == 5 and "Qwen3-8B" in shown(at)
    at.switch_page(FINETUNING).run()
    assert at.number_input(key="t_seq_len").value == 1000


def test_an_uploaded_model_can_be_tuned() -> None:
    at = uploaded(opened(), "upload_model", "my-llama.json", json.dumps(CONFIG).encode())
    at.switch_page(FINETUNING).run()
    at.selectbox(key="t_model").set_value("upload:my-llama").run()
    assert not at.exception
    assert "QLoRA of my-llama" in shown(at)


@pytest.mark.parametrize(
    ("column", "value", "method"),
    [("lora_rank", "8", "lora"), ("weight_format", "bnb-nf4", "qlora"), ("method", "full", "full")],
)
def test_a_link_without_a_method_means_the_usual_one(column: str, value: str, method: str) -> None:
    assert read({column: [value]}, NO_NAMES).run.method == method


def test_an_address_of_another_page_is_none_of_this_one() -> None:
    at = opened(FINETUNING, model="Qwen/Qwen3-8B", gpu="l4", concurrency="5")
    assert "cannot use" not in shown(at) and at.segmented_control(key="t_method").value == FIRST.method


def test_it_begins_with_what_was_planned_on_another_page() -> None:
    at = opened(FINETUNING, model="Qwen/Qwen3-14B", gpu="l40s", n_gpus="2")
    assert "Qwen3-14B" in shown(at) and "2 × L40S" in shown(at)
