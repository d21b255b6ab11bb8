"""The Simulation page: what it says is what the command line says."""

from __future__ import annotations

import pytest

from planner import explain
from tests.pages import SIMULATION, opened, shown

LLAMA = "meta-llama/Llama-3.3-70B-Instruct"


def test_a_simulation_shows_what_the_command_line_says() -> None:
    from planner.simulation import Protocol, simulation

    at = opened(SIMULATION, model="llama-3.1-8b", gpu="h100-sxm", n_gpus="1", concurrency="4", door="hardware")
    at.select_slider(key="sim_count").set_value(500)
    at.button(key="simulate").click().run(timeout=120)
    assert not at.exception and not at.error
    row = simulation(at.session_state["simulated"][0].scenario, Protocol(500)).row
    tiles = {item.label: item.value for item in at.metric}
    assert tiles["Whole server, tokens/s"] == explain.figure(row["simulated_output_tokens_per_s"])
    assert at.dataframe[0].value.loc[0, "p99"] == pytest.approx(row["ttft_p99_ms"], rel=0.005)
    at.number_input(key="sim_seed").set_value(1).run()
    assert "have changed" in shown(at)


def test_a_simulation_says_how_the_requests_of_its_load_arrive() -> None:
    for query, said in (
        ({"request_rate_per_s": "3"}, "Poisson"),
        ({"users": "9"}, "Each user"),
        ({}, "whenever one ends"),
    ):
        assert any(said in item.value for item in opened(SIMULATION, **query).caption)


def test_a_trace_is_simulated_in_place_of_the_load_and_a_broken_one_is_one_line() -> None:
    trace = b"time,input,output\n" + b"".join(b"%d,500,50\n" % (10 * n) for n in range(20))
    at = opened(SIMULATION)
    at.session_state["sim_count"] = 500
    at.run()
    at.file_uploader(key="sim_trace").set_value(("t.csv", trace, "text/csv")).run()
    at.button(key="simulate").click().run(timeout=120)
    assert not at.exception and not at.error
    assert at.session_state["simulated"][1].row["simulated_requests"] == 20
    assert {item.label: item.value for item in at.metric}["Requests/s"] == "0.105"
    at.file_uploader(key="sim_trace").set_value(("t.csv", b"time,input,output\nabc,1,1\n", "text/csv")).run()
    assert "inputs have changed" in at.warning[0].value
    at.button(key="simulate").click().run(timeout=120)
    assert "t.csv line 2" in at.error[0].value.replace("\\", "")


def test_a_simulation_of_what_does_not_start_says_why() -> None:
    at = opened(SIMULATION, model=LLAMA, weight_format="bf16", gpu="rtx4090", n_gpus="1", door="hardware")
    at.button(key="simulate").click().run(timeout=120)
    assert not at.exception and "Does not start" in shown(at)
