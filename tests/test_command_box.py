"""An engine's start command that is pasted into the calculator."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from tests.pages import opened, shown


def commanded(command: str) -> AppTest:
    at = opened()
    at.session_state["own"] = True
    at.run()
    return at.text_area(key="paste_command").set_value(command).run()


def test_a_path_in_a_pasted_command_is_taken_for_its_last_part() -> None:
    at = commanded("vllm serve /models/Qwen3-32B -tp 4 --download-dir /tmp")
    assert "Qwen3-32B in BF16 on 4 × H100" in shown(at)


def test_a_pasted_command_is_the_deployment_and_what_it_leaves_open_is_as_the_engine_does() -> None:
    at = commanded("vllm serve Qwen/Qwen3-32B -tp 4 --max-num-seqs 64 --my-own-flag 3")
    assert "Qwen3-32B in BF16 on 4 × H100" in shown(at) and "--my-own-flag" in shown(at)
    assert at.query_params["max_num_seqs"] == "64" and at.query_params["concurrency"] == "32"


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("vllm serve ./planner/data", "unknown model 'data'"),
        ("vllm serve --model=/etc", "unknown model 'etc'"),
        ("vllm serve /no-such-folder\\\r\n -tp 2", "unknown model 'no-such-folder'"),
        ("rm -rf /nowhere", "starts no engine"),
        ("vllm serve nobody/knows-this -tp 2", "unknown model"),
        ("vllm serve", "names no model"),
    ],
)
def test_a_command_that_cannot_be_used_changes_nothing(command: str, fault: str) -> None:
    at = commanded(command)
    assert fault in shown(at) and at.selectbox(key="f_model").value == "meta-llama/Llama-3.3-70B-Instruct"
