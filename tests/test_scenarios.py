"""Scenarios from files and flags: strict values, named faults, one bad row among good ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.catalog.scenarios import (
    MAX_BYTES,
    MAX_ROWS,
    parse_scenarios,
    read_cells,
    scenario_in,
    scenarios_from_flags,
)
from planner.catalog.values import columns, value_of
from planner.errors import BadFile, BadValue, PlannerError, UnknownName


def rows_of(text: str, suffix: str = ".csv") -> list:
    return parse_scenarios(text.encode(), suffix, "x")


def test_a_csv_row_becomes_a_scenario() -> None:
    (row,) = rows_of("model,gpu,tp,gpu_memory_utilization,enforce_eager\nllama,h100-sxm,2,0.9,yes\n")
    assert not row.error
    assert row.scenario.model_dump(exclude_none=True) == {
        "model": "llama", "gpu": "h100-sxm", "tp": 2, "gpu_memory_utilization": 0.9, "enforce_eager": True,
    }  # fmt: skip


def test_the_same_scenario_reads_alike_from_every_format() -> None:
    texts = {
        ".csv": "model,tp\nllama,2",
        ".json": '[{"model": "llama", "tp": 2}]',
        ".jsonl": '{"model": "llama", "tp": 2}\n\n',
        ".yaml": "- model: llama\n  tp: 2\n",
    }
    assert len({row.scenario for suffix, text in texts.items() for row in rows_of(text, suffix)}) == 1


def test_a_blank_cell_is_the_default() -> None:
    (row,) = rows_of("model,tp,name\nllama,, \n")
    assert row.scenario.tp is None and row.scenario.name is None


def test_a_bad_row_does_not_stop_the_others() -> None:
    rows = rows_of("model,tp\na,1\nb,0\nc,x\nd,4\n")
    assert [row.error for row in rows] == ["", "tp 0 is below 1", rows[2].error, ""]
    assert rows[1].where == "line 3"
    assert "'x' is not a number" in rows[2].error


def test_a_bad_row_keeps_what_could_be_read() -> None:
    (row,) = rows_of("name,model,tp\nmine,llama,-3")
    assert row.error and row.scenario.name == "mine" and row.scenario.tp is None


def test_a_misspelt_column_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="'concurency'; did you mean 'concurrency'"):
        rows_of("model,concurency\nllama,1")


def test_a_misspelt_key_of_json_spoils_its_row_only() -> None:
    rows = rows_of('{"model": "a"}\n{"modle": "b"}', ".jsonl")
    assert [bool(row.error) for row in rows] == [False, True]


@pytest.mark.parametrize("cell", ["nan", "inf", "-inf", "1e999", "1,000", "12 GiB", "0x10", "1_000", "٣", "--1"])
def test_numbers_are_strict(cell: str) -> None:
    for column in ("tp", "device_gib"):
        with pytest.raises(BadValue, match=column):
            value_of(column, cell)


@pytest.mark.parametrize(("cell", "value"), [("8", 8), ("8.0", 8), ("1e3", 1000), (" 16 ", 16), ("+4", 4)])
def test_a_whole_number_may_be_written_as_spreadsheets_do(cell: str, value: int) -> None:
    assert value_of("concurrency", cell) == value and type(value_of("concurrency", cell)) is int


@pytest.mark.parametrize("given", [True, 1.5, "2.5", [1], {}])
def test_what_is_no_whole_number_is_refused(given: object) -> None:
    with pytest.raises(BadValue):
        value_of("tp", given)


def test_a_version_written_as_a_number_is_refused_not_shortened() -> None:
    (row,) = rows_of("- engine_version: 0.10", ".yaml")
    assert "quotes" in row.error


def test_control_characters_are_refused() -> None:
    with pytest.raises(BadValue, match="control character"):
        value_of("name", "a\x1b[31mb")


@pytest.mark.parametrize(
    ("text", "suffix"),
    [("", ".csv"), ("model\n", ".csv"), ("", ".jsonl"), ("[]", ".json"), ("", ".yaml"), (",,\n1", ".csv"),
     ("model,model\na,b", ".csv"), ('model\n"a', ".csv"), ("model\n", ".xlsx"), ("model\n\0", ".csv")],
)  # fmt: skip
def test_a_file_that_holds_no_scenario_is_one_line(text: str, suffix: str) -> None:
    with pytest.raises(BadFile) as refused:
        rows_of(text, suffix)
    assert "\n" not in str(refused.value)


def test_the_delimiters_of_spreadsheets_are_understood() -> None:
    for delimiter in ",;\t":
        (row,) = rows_of(f"model{delimiter}tp\r\nllama{delimiter}2\r\n")
        assert row.scenario.tp == 2


def test_extra_cells_are_an_error_of_their_row() -> None:
    rows = rows_of("model,tp\na,1,9\nb,1,\n")
    assert [bool(row.error) for row in rows] == [True, False]


def test_too_many_rows_and_bytes_are_refused() -> None:
    with pytest.raises(BadFile, match="split the file"):
        rows_of("tp\n" + "1\n" * (MAX_ROWS + 1))
    with pytest.raises(BadFile, match="bytes"):
        parse_scenarios(b"tp\n" + b" " * MAX_BYTES, ".csv", "x")


@given(st.binary(max_size=300), st.sampled_from([".csv", ".json", ".jsonl", ".yaml"]))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_rows_or_one_clear_refusal(data: bytes, suffix: str) -> None:
    try:
        rows = parse_scenarios(data, suffix, "x")
    except PlannerError as error:
        assert "\n" not in str(error)
    else:
        assert all("\n" not in row.error for row in rows)


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())


@given(st.dictionaries(st.sampled_from(sorted(columns())), SCALARS))
@settings(max_examples=300, deadline=None)
def test_any_json_scalars_are_a_row(item: dict[str, object]) -> None:
    try:
        (row,) = rows_of(json.dumps([item]), ".json")
    except BadFile:
        return
    assert "\n" not in row.error


def test_a_file_is_read_by_its_ending(tmp_path: Path) -> None:
    (tmp_path / "a.JSON").write_text('{"model": "llama"}')
    assert scenario_in(read_cells(tmp_path / "a.JSON")[0]).scenario.model == "llama"


def test_a_range_by_factor_includes_both_ends() -> None:
    assert [s.concurrency for s in scenarios_from_flags({"concurrency": "1:256:x2"})] == [2**i for i in range(9)]


def test_a_range_by_step_stops_at_its_end() -> None:
    assert [s.input_tokens for s in scenarios_from_flags({"input_tokens": "1:100:+33"})] == [1, 34, 67, 100]


def test_a_range_of_fractions_does_not_drift() -> None:
    grid = scenarios_from_flags({"gpu_memory_utilization": "0.8:0.95:+0.05"})
    assert [s.gpu_memory_utilization for s in grid] == [0.8, 0.85, 0.9, 0.95]


def test_lists_span_a_grid_whose_last_column_varies_fastest() -> None:
    grid = scenarios_from_flags({"weight_format": "fp8,awq", "concurrency": "1,8:16:x2"})
    assert [(s.weight_format, s.concurrency) for s in grid] == [
        ("fp8", 1), ("fp8", 8), ("fp8", 16), ("awq", 1), ("awq", 8), ("awq", 16),
    ]  # fmt: skip


def test_commas_of_names_and_splits_are_no_lists() -> None:
    (scenario,) = scenarios_from_flags({"name": "a,b", "tensor_split": "3,1"})
    assert (scenario.name, scenario.tensor_split) == ("a,b", "3,1")


@pytest.mark.parametrize("text", "1:9 1:9:2 9:1:x2 1:9:x1 0:9:x2 1:9:+0 1:9:+-1 1::x2 :9:x2 1,,2 1:1e9:+1".split())
def test_a_range_that_never_ends_or_begins_is_refused(text: str) -> None:
    with pytest.raises(BadValue, match="concurrency"):
        scenarios_from_flags({"concurrency": text})


def test_a_grid_beyond_the_limit_is_refused_before_it_is_built() -> None:
    with pytest.raises(BadValue, match="1000000000 scenarios"):
        scenarios_from_flags(dict.fromkeys(("concurrency", "input_tokens", "output_tokens"), "1:1000:+1"))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"task": "generat"}, "did you mean 'generate'"),
        ({"tp": "0"}, "tp 0 is below 1"),
        ({"slo_percentile": "100"}, "must be below 100"),
        ({"gpu_memory_utilization": "1.1"}, "is above 1"),
        ({"name": "x" * 5000}, "longer than 4096"),
        ({"enforce_eager": "maybe"}, "true, false"),
    ],
)
def test_a_value_out_of_range_says_what_is_allowed(flags: dict[str, str], says: str) -> None:
    with pytest.raises(BadValue, match=says):
        scenarios_from_flags(flags)
