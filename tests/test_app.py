"""Every page runs, says what the estimator says, and shows no traceback whatever it is given."""

from __future__ import annotations

import json
from typing import Any

import pytest

import defaults
import state
from planner import explain
from planner.catalog import gpus, models
from planner.estimate import NO_LIBRARY, estimate
from planner.specs.scenario import Scenario
from tests.pages import CONFIG, PAGES, opened, shown, uploaded

LLAMA = "meta-llama/Llama-3.3-70B-Instruct"
GPU = b"name: My card\nlabel_gb: 48\nbandwidth_gb_per_s: 900\nbf16_tflops: 180\ncompute_capability: 8.9\n"


@pytest.mark.parametrize("script", PAGES)
def test_every_page_opens_with_defaults(script: str) -> None:
    assert not opened(script).error


@pytest.mark.parametrize("script", PAGES)
def test_every_page_survives_a_link_of_nonsense(script: str) -> None:
    at = opened(script, model="../../etc/passwd", gpu="<img src=x>", concurrency="1e400", nonsense="1", v="7")
    assert "cannot use" in shown(at)
    assert all(word in shown(at) for word in ("etc/passwd", "img src=x", "1e400", "nonsense", "version 1"))


def test_the_verdict_is_the_estimators() -> None:
    row = estimate(defaults.first_scenario()).rows()[0]
    assert explain.verdict(row).sentence in shown(opened())


def test_four_figures_and_their_intervals_stand_on_the_first_screen() -> None:
    tiles = opened().metric
    assert [tile.label for tile in tiles] == ["Each user", "First token", "Whole server", "Limited by"]
    assert all(tile.value != "–" and tile.delta for tile in tiles)


def test_a_slider_moves_the_field_the_address_and_the_answer() -> None:
    at = opened()
    before = shown(at)
    at.select_slider(key="s_concurrency").set_value(64).run()
    assert at.number_input(key="f_concurrency").value == 64
    assert at.query_params["concurrency"] == "64"
    assert "64 requests" in shown(at) and shown(at) != before


def test_an_exact_field_is_a_step_of_the_slider() -> None:
    at = opened()
    at.number_input(key="f_input_tokens").set_value(5000).run()
    assert at.select_slider(key="s_input_tokens").value == 5000
    assert "5,000 + 500 tokens" in shown(at)
    at.select_slider(key="s_input_tokens").set_value(4000).run()
    assert at.number_input(key="f_input_tokens").value == 4000
    assert "5,000" not in at.select_slider(key="s_input_tokens").options


def test_a_link_opens_the_scenario_that_it_names() -> None:
    at = opened(model="Qwen/Qwen3-8B", gpu="rtx4090", concurrency="3", kv_format="q8_0", engine="llama.cpp")
    assert "Qwen3-8B in GGUF Q4_K_M on 1 × GeForce RTX 4090" in shown(at)
    assert at.selectbox(key="f_kv_format").value == "q8_0"
    assert at.number_input(key="f_concurrency").value == 3


def test_the_rest_of_a_bad_link_is_used() -> None:
    at = opened(model="Qwen/Qwen3-8B", gpu="l40s", concurrency="many")
    assert "Qwen3-8B" in shown(at) and "L40S" in shown(at) and "concurrency 'many'" in shown(at)


def test_the_warning_goes_with_the_next_change() -> None:
    at = opened(concurrency="many")
    at.select_slider(key="s_concurrency").set_value(8).run()
    assert "cannot use" not in shown(at)


def test_a_bare_address_stays_bare_until_something_changes() -> None:
    assert not opened().query_params


def test_the_scenario_follows_from_page_to_page() -> None:
    at = opened(model="Qwen/Qwen3-8B", gpu="l4", concurrency="5")
    for page in (*PAGES[1:], PAGES[0]):
        at.switch_page(page).run()
        assert not at.exception
        assert at.number_input(key="f_concurrency").value == 5
    assert "Qwen3-8B" in shown(at) and "× L4" in shown(at)


def test_the_door_of_a_load_says_how_many_gpus_hold_it() -> None:
    at = opened(door="load", model=LLAMA, gpu="h100-sxm", weight_format="fp8", concurrency="200")
    assert "4 × H100 SXM5 80GB hold this load." in shown(at)
    assert not [item for item in at.number_input if item.label == "Count"]


def test_a_change_is_applied_by_its_button() -> None:
    at = opened()
    button = next(item for item in at.button if "fp8" in item.label)
    button.click().run()
    assert at.query_params["kv_format"] == "fp8"
    assert at.selectbox(key="f_kv_format").value == "fp8"


def test_what_does_not_start_is_said_first_and_can_be_mended() -> None:
    at = opened(model=LLAMA, gpu="rtx4090")
    assert at.error[0].proto.title == "Does not start."
    assert not at.metric
    next(item for item in at.button if " × " in item.label).click().run()
    assert not at.error


def test_another_class_of_gpu_brings_its_usual_settings_and_says_so() -> None:
    at = opened()
    at.selectbox(key="f_gpu").set_value("rtx4090").run()
    assert at.selectbox(key="f_engine").value == "llama.cpp"
    assert at.selectbox(key="f_weight_format").value == "gguf-q4_k_m"
    assert (at.number_input(key="f_concurrency").value, at.number_input(key="f_n_gpus").value) == (1, 1)
    assert "desktop" in shown(at)


def test_a_load_of_ones_own_survives_another_class_of_gpu() -> None:
    at = opened()
    at.number_input(key="f_concurrency").set_value(7).run()
    at.selectbox(key="f_gpu").set_value("rtx4090").run()
    assert at.number_input(key="f_concurrency").value == 7


def test_a_name_that_was_typed_becomes_the_catalogue_s() -> None:
    at = opened()
    at.selectbox(key="f_gpu").set_value("4090").run()
    assert at.selectbox(key="f_gpu").value == "rtx4090"


def test_a_format_of_another_engine_brings_that_engine() -> None:
    at = opened(model="Qwen/Qwen3-8B", gpu="rtx4090")
    at.selectbox(key="f_weight_format").set_value("awq-int4-g128").run()
    assert at.selectbox(key="f_engine").value == "vllm" and "runs in vLLM" in shown(at)
    at.selectbox(key="f_weight_format").set_value("gguf-q4_k_m").run()
    assert at.selectbox(key="f_engine").value == "llama.cpp"


def test_a_model_that_comes_in_gguf_brings_the_engine_that_runs_it() -> None:
    before = defaults.first_scenario()
    after, told = state.settled(before, before.model_copy(update={"model": "Qwen3-8B-Q4_K_M.gguf"}), NO_LIBRARY)
    assert (after.engine, after.weight_format, after.kv_format) == ("llama.cpp", "gguf-q4_k_m", "fp16")
    assert "llama.cpp" in told


def test_an_encoder_takes_no_objective_between_tokens() -> None:
    at = opened(model="BAAI/bge-m3", gpu="l4")
    at.session_state["fold_Objectives"] = True
    at.run()
    at.number_input(key="f_tpot_slo_ms").set_value(10.0).run()
    assert at.number_input(key="f_tpot_slo_ms").value is None and "writes no tokens" in shown(at)


def test_a_model_released_in_4_bit_keeps_its_format() -> None:
    at = opened()
    at.selectbox(key="f_model").set_value("openai/gpt-oss-120b").run()
    assert at.selectbox(key="f_weight_format").value == "mxfp4"
    at.selectbox(key="f_model").set_value(LLAMA).run()
    assert at.selectbox(key="f_weight_format").value == "fp8"


def test_prompt_and_answer_of_nothing_are_refused() -> None:
    at = opened(output_tokens="0")
    at.number_input(key="f_input_tokens").set_value(0).run()
    assert not at.exception
    assert at.number_input(key="f_input_tokens").value == 2000
    assert at.warning[0].proto.title.startswith("Not taken")
    at.number_input(key="f_concurrency").set_value(8).run()
    assert not at.warning


def test_objectives_change_the_verdict() -> None:
    assert opened(ttft_slo_ms="5000").success[0].proto.title.startswith("Meets your objectives")
    assert "objective" in shown(opened(ttft_slo_ms="1"))


def test_folded_settings_keep_their_values_while_closed() -> None:
    at = opened(max_num_seqs="48")
    assert not [item for item in at.number_input if item.label == "Most sequences at once"]
    at.session_state["fold_Engine settings"] = True
    at.run()
    assert next(item for item in at.number_input if item.label == "Most sequences at once").value == 48
    at.session_state["fold_Engine settings"] = False
    at.run()
    assert at.query_params["max_num_seqs"] == "48"


def test_a_fold_keeps_its_title_and_says_what_is_set_while_closed() -> None:
    at = opened(max_num_seqs="48", ttft_slo_ms="500")
    said = [item.value.replace("\\", "") for item in at.sidebar.caption]
    assert any("Most sequences at once: 48" in line for line in said)
    assert any("First token within, ms: 500" in line for line in said)
    titles = {item.label for item in at.expander}
    assert {"Engine settings", "Objectives"} <= titles  # a box with another title shuts itself in the browser
    at.session_state["fold_Objectives"] = True
    at.run()
    assert not any("First token within" in item.value for item in at.sidebar.caption)


def test_users_lift_the_limit_on_requests_at_once_and_without_them_it_returns() -> None:
    at = opened(door="load", tpot_slo_ms="40", input_tokens="4000", n_gpus="2")
    at.session_state["fold_Users, rates and shapes of load"] = True
    at.run()
    at.number_input(key="f_users").set_value(200)
    at.number_input(key="f_think_time_s").set_value(20.0).run()
    assert not at.exception
    assert at.number_input(key="f_concurrency").value is None and "concurrency" not in at.query_params
    assert any("without a limit on requests at once" in item.value for item in at.info)
    assert "200 users" in shown(at) and "2 × H100" not in shown(at)  # a limit of 32 would hide four in five of them
    at.number_input(key="f_concurrency").set_value(64).run()
    assert at.query_params["concurrency"] == "64"
    at.number_input(key="f_concurrency").set_value(None).run()
    at.number_input(key="f_users").set_value(None).run()
    assert not at.exception
    assert at.number_input(key="f_concurrency").value == 32


@pytest.mark.parametrize("view", ["Prompt length and KV cache", "One step", "Formulas and sources"])
@pytest.mark.parametrize("model", [LLAMA, "deepseek-ai/DeepSeek-V3", "Qwen/Qwen3-Embedding-0.6B"])
def test_every_view_of_an_answer_opens(view: str, model: str) -> None:
    at = opened(model=model, gpu="h200-sxm", n_gpus="8")
    at.session_state["views"] = view
    at.run()
    assert not at.exception


def test_an_uploaded_config_becomes_the_model() -> None:
    at = uploaded(opened(), "upload_model", "my-llama.json", json.dumps(CONFIG).encode())
    assert not at.exception
    assert at.selectbox(key="f_model").value == "upload:my-llama"
    assert "my-llama in" in shown(at)


def test_an_upload_called_config_is_named_by_its_architecture() -> None:
    at = uploaded(opened(), "upload_model", "config.json", json.dumps(CONFIG).encode())
    assert at.selectbox(key="f_model").value == f"upload:llama-with-{CONFIG['num_hidden_layers']}-layers"


def test_a_pasted_config_becomes_the_model_and_its_start_line_a_path() -> None:
    at = opened()
    at.session_state["own"] = True
    at.run()
    at.text_area(key="paste_model").set_value(json.dumps(CONFIG)).run()
    assert at.selectbox(key="f_model").value.startswith("upload:llama")
    assert any("vllm serve /path/to/llama" in code.value for code in at.code)


def test_an_index_of_files_says_which_file_is_meant() -> None:
    index = json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": "model-1.safetensors"}}).encode()
    at = uploaded(opened(), "upload_model", "model.safetensors.index.json", index)
    assert "config.json that lies beside it" in shown(at)


def test_an_uploaded_model_on_an_uploaded_gpu_is_searched_in_every_precision() -> None:
    at = uploaded(opened(PAGES[1], concurrency="4"), "upload_model", "my-llama.json", json.dumps(CONFIG).encode())
    at = uploaded(at, "upload_gpu", "card.yaml", GPU)
    assert at.selectbox(key="w_which").value == "upload:my-llama"
    at.button(key="search").click().run()
    assert not at.exception
    assert "my-llama in" in shown(at) and "My card" in shown(at)
    formats = set(at.dataframe(key="candidates").value["format"])
    assert {"AWQ INT4, groups of 128", "FP8 W8A8"} <= formats


BAD_CONFIGS = (
    b"",
    b"{",
    b"[1]",
    b"[" * 100_000,
    b'{"num_hidden_layers": 1e999}',
    b"PK\x03\x04",
    b"\xff\xfe",
    b'{"a": 1, "a": 2}',
    json.dumps(CONFIG | {"num_hidden_layers": 10**9}).encode(),
    json.dumps(CONFIG | {"num_key_value_heads": -8}).encode(),
)


@pytest.mark.parametrize("data", BAD_CONFIGS, ids=lambda data: repr(data[:24]))
def test_a_bad_config_is_one_line_and_changes_nothing(data: bytes) -> None:
    at = uploaded(opened(), "upload_model", "x.json", data)
    assert not at.exception
    assert len(at.error) == 1 and "\n" not in at.error[0].value
    assert "x.json: " in at.error[0].value.replace("\\", "")
    assert at.selectbox(key="f_model").value == LLAMA


def test_an_uploaded_profile_becomes_the_gpu() -> None:
    at = uploaded(opened(model="Qwen/Qwen3-8B", gpu="l4"), "upload_gpu", "card.yaml", GPU)
    assert not at.exception
    assert at.selectbox(key="f_gpu").value == "upload:My card"
    assert "My card" in shown(at)


def test_a_bad_profile_is_one_line() -> None:
    at = uploaded(opened(), "upload_gpu", "card.yaml", b"a: &x [1]\nb: *x\n")
    assert not at.exception
    assert len(at.error) == 1


def test_a_gpu_by_its_figures_is_used() -> None:
    at = opened(model="Qwen/Qwen3-8B", gpu="l4")
    at.session_state["own"] = True
    at.run()
    at.number_input(key="own_label_gb").set_value(96.0)
    next(item for item in at.button if item.label == "Use this GPU").click().run()
    assert not at.exception
    assert at.selectbox(key="f_gpu").value == "upload:my-gpu"


def test_a_file_name_with_markup_is_only_its_letters() -> None:
    at = uploaded(opened(), "upload_model", "![x](http__evil)<b>.json", json.dumps(CONFIG).encode())
    assert at.selectbox(key="f_model").value == "upload:xhttp__evilb"


def test_pins_are_compared_with_differences_first() -> None:
    at = opened(PAGES[2])
    at.segmented_control(key="view").set_value("pins").run()
    at.button(key="pin").click().run()
    at.selectbox(key="f_kv_format").set_value("fp8").run()
    at.button(key="pin").click().run()
    table = at.dataframe[0].value
    assert table.iloc[0, 0] == "KV cache"
    assert list(table.iloc[0, 1:]) == ["bf16", "fp8"]
    assert len(at.query_params["pin"]) == 2
    at.button(key="unpin_0").click().run()
    assert not at.exception


@pytest.mark.parametrize("view", ["formats", "gpus"])
def test_formats_and_gpus_are_compared_side_by_side(view: str) -> None:
    at = opened(PAGES[2])
    at.segmented_control(key="view").set_value(view).run()
    assert not at.exception
    assert len(at.dataframe[0].value.columns) > 4


def test_a_search_ranks_what_holds_the_load() -> None:
    at = opened(PAGES[1], model="Qwen/Qwen3-8B", gpu="l40s", concurrency="4", find_sizes="7-10", find_rank_by="cost")
    at.button(key="search").click().run(timeout=120)
    assert not at.exception
    table = at.dataframe[0].value
    assert len(table) > 5
    assert table["usd_per_thousand_requests"].is_monotonic_increasing
    assert table["size"].between(7, 10).all()
    assert "it costs least for each request" in at.success[0].value


class TestSettled:
    """What follows from an edit, without a page."""

    LIBRARY = NO_LIBRARY
    FIRST = defaults.first_scenario()

    def settle(self, **update: Any) -> Scenario:
        return state.settled(self.FIRST, self.FIRST.model_copy(update=update), self.LIBRARY)[0]

    def test_an_edit_of_the_load_changes_nothing_else(self) -> None:
        assert self.settle(concurrency=5) == self.FIRST.model_copy(update={"concurrency": 5})

    def test_another_engine_brings_formats_that_it_runs(self) -> None:
        found = self.settle(engine="llama.cpp")
        assert (found.weight_format or "").startswith("gguf-")
        assert found.kv_format == "fp16"

    @pytest.mark.parametrize("gpu", gpus.gpu_ids())
    def test_every_gpu_has_settings_that_its_engine_supports(self, gpu: str) -> None:
        found = self.settle(gpu=gpu)
        assert defaults.level(found.weight_format or "", found.engine or "", gpus.gpu(gpu)) != "unsupported"

    @pytest.mark.parametrize("name", models.model_ids()[::7])
    def test_every_model_has_usual_settings(self, name: str) -> None:
        row = estimate(self.settle(model=name)).rows()[0]
        assert row["error"] is None
