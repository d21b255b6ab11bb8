"""The log box of the calculator: predicted beside actual, and a log is never trusted."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from links import Form
from logbox import beside, settings_of
from planner.catalog.logs import MAX_BYTES
from planner.errors import BadFile
from planner.estimate import NO_LIBRARY
from planner.specs.scenario import Scenario
from tests.pages import opened, shown
from tests.test_logs import FIRST, GEMMA, LLAMA

LIBRARY = NO_LIBRARY
FORM = Form("hardware", Scenario(model="Qwen/Qwen3-8B", gpu="mi300x", n_gpus=1, concurrency=7))


def pasted(text: str, **query: str) -> AppTest:
    at = opened(**query)
    at.session_state["logbox"] = True
    at.run()
    at.text_area(key="log_text").set_value(text).run()
    assert not at.exception
    return at


def test_terms_stand_beside_the_lines_that_state_them_differences_first() -> None:
    table = pasted(GEMMA, gpu="mi300x").dataframe[0].value
    errors = table["Difference, %"].abs()
    assert list(errors) == sorted(errors, reverse=True)
    assert errors[1:].max() < 3 and errors[0] < 20  # CUDA graphs: logs of one configuration differ by twice as much
    assert any("Available KV cache memory: 109.86 GiB" in line for line in table["Log"])


def test_the_logs_settings_fill_the_page_and_the_load_stays() -> None:
    at = pasted(GEMMA, gpu="mi300x", concurrency="7")
    at.button(key="log_use").click().run()
    assert not at.exception
    assert "gemma-3-27b-it in BF16" in shown(at)
    assert at.query_params["max_model_len"] == "4096" and at.number_input(key="f_concurrency").value == 7


def test_the_page_shows_its_own_figures_as_the_log_prints_them() -> None:
    at = opened()
    at.session_state["logbox"] = True
    at.run()
    assert any("Model loading took" in block.value for block in at.code)


@pytest.mark.parametrize("text", ["hello", "{}", "<script>alert(1)</script>", "GiB " * 1000])
def test_text_that_is_no_log_says_so_in_one_line(text: str) -> None:
    at = pasted(text)
    assert len(at.error) == 1 and "\n" not in at.error[0].value


def test_a_start_that_failed_is_said_with_its_line() -> None:
    text = GEMMA.partition("Available")[0] + "\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.\n"
    assert "The engine did not start" in shown(pasted(text, gpu="mi300x"))


def test_what_the_log_does_not_say_is_the_pages_and_named() -> None:
    found = beside(FIRST, FORM, LIBRARY)
    assert found.scenario.model == "Qwen/Qwen3-8B"
    assert any("names no model" in note for note in found.notes)


def test_a_path_out_of_a_log_is_never_opened() -> None:
    evil = GEMMA.replace("model='/google/gemma-3-27b-it'", "model='app/main.py'")
    found = beside(evil, FORM, LIBRARY)
    assert found.scenario.model == "Qwen/Qwen3-8B" and any("app/main.py" in note for note in found.notes)


def test_settings_of_a_log_are_columns_of_the_page() -> None:
    form = FORM._replace(scenario=FORM.scenario.model_copy(update={"gpu": "rtx3090"}))
    update = settings_of(beside(LLAMA, form, LIBRARY))
    assert update["weight_format"] == "gguf-q4_k_m" and update["engine"] == "llama.cpp"
    assert "concurrency" not in update


def test_a_log_beyond_the_limit_is_refused() -> None:
    with pytest.raises(BadFile, match="more than"):
        beside("x" * (MAX_BYTES + 1), FORM, LIBRARY)


def test_a_few_lines_of_a_log_are_held_against_the_deployment_of_the_page() -> None:
    asked = Scenario(
        model="meta-llama/Llama-3.3-70B-Instruct",
        gpu="h100-sxm",
        tp=2,
        engine="vllm",
        weight_format="fp8",
        concurrency=32,
    )
    found = beside("INFO Model loading took 34.2 GiB and 20 seconds", Form("hardware", asked), LIBRARY)
    assert found.scenario.weight_format == "fp8" and found.scenario.tp == 2
    assert abs(found.found.terms[0].error or 1.0) < 0.05
    assert "this page" in found.notes[-1]
