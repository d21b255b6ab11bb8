"""The scenario in the address: what is written is read back, what is wrong is named, no path is opened."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defaults import first_scenario
from fields import COLUMNS, FOLDS, limits
from links import MAX_LINK, MAX_PINS, Form, Link, Names, address, column_value, query_of, read
from planner.specs.scenario import Scenario

FIRST = Form("hardware", first_scenario())


def link(**query: str) -> Link:
    return read({name: [value] for name, value in query.items()}, FIRST, Names())


def values(column: str) -> st.SearchStrategy[Any]:
    whole = Scenario.model_fields[column].annotation is not None and "int" in str(
        Scenario.model_fields[column].annotation
    )
    least, most = limits(column, whole)
    return st.integers(least, most) if whole else st.floats(least, most)


NUMBERS = [field.column for fold in FOLDS for field in fold.fields if field.step is not None]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_link_is_read_back_as_it_was_written(data: st.DataObject) -> None:
    column = data.draw(st.sampled_from(NUMBERS))
    form = FIRST._replace(scenario=FIRST.scenario.model_copy(update={column: data.draw(values(column))}))
    found = read(parse_qs(address(form)), FIRST, Names())
    assert found.dropped == ()
    assert getattr(found.form.scenario, column) == pytest.approx(getattr(form.scenario, column), rel=1e-11)


def test_pins_travel_in_the_link() -> None:
    pins = (FIRST.scenario, FIRST.scenario.model_copy(update={"concurrency": 7, "kv_format": "fp8"}))
    assert read(query_of(FIRST._replace(pins=pins)), FIRST, Names()).form.pins == pins


def test_an_alias_becomes_the_name_that_the_page_knows() -> None:
    found = link(model="openai/gpt-oss-20b", gpu="b200", engine="trtllm", weight_format="MXFP4", kv_format="FP8")
    s = found.form.scenario
    assert (s.engine, s.weight_format, s.kv_format, found.dropped) == ("tensorrt-llm", "mxfp4", "fp8", ())


def test_more_pins_than_fit_are_named() -> None:
    found = read(query_of(FIRST._replace(pins=(FIRST.scenario,) * (MAX_PINS + 1))), FIRST, Names())
    assert len(found.form.pins) == MAX_PINS
    assert "pinned" in found.dropped[0]


BAD = ["NaN", "1e400", "-1", "0x10", "1,000", "9" * 400, "x" * 50_000, "<script>alert(1)</script>", "१२"]


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:12])
@pytest.mark.parametrize("column", [name for name in COLUMNS if name not in ("engine_version", "enforce_eager")])
def test_every_bad_value_is_dropped_and_named(column: str, text: str) -> None:
    found = (
        link(model="Qwen/Qwen3-8B", gpu="l4") if len(text) > MAX_LINK else link(**{"concurrency": "5", column: text})
    )
    if len(text) > MAX_LINK:
        found = link(**{column: text})
        assert "longer than" in found.dropped[0]
        return
    assert len(found.dropped) == 1
    assert column.split("_")[0] in found.dropped[0].lower()
    assert getattr(found.form.scenario, column) == getattr(FIRST.scenario, column)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../../etc", "./app", "app", "tests/golden", "~root", "a.yaml", "C:\\x", "//h/s"]
)
@pytest.mark.parametrize("column", ["model", "gpu"])
def test_a_path_is_never_a_name(column: str, name: str) -> None:
    found = link(**{column: name})
    assert len(found.dropped) == 1
    assert getattr(found.form.scenario, column) == getattr(FIRST.scenario, column)


def test_no_name_tells_what_lies_on_the_server() -> None:
    there, absent = (link(model=name).dropped[0] for name in ("docs/README.md", "docs/ABSENT.md"))
    assert there.replace("README", "ABSENT") == absent


def test_an_unknown_parameter_and_another_version_are_named() -> None:
    found = link(v="9", foo="1", door="window")
    assert [line.split("=")[0].split()[0] for line in found.dropped] == ["v", "door", "'foo'"]


def test_a_name_of_another_session_is_refused_and_of_this_one_taken() -> None:
    assert "uploaded in another session" in link(model="upload:mine").dropped[0]
    assert read({"model": ["upload:mine"]}, FIRST, Names(models=frozenset({"upload:mine"}))).dropped == ()


@pytest.mark.parametrize(("column", "name"), [("model", "no/such-model-xyz"), ("gpu", "h9999"), ("engine", "foo")])
def test_an_unknown_name_is_told_where_to_look_on_the_page(column: str, name: str) -> None:
    line = link(**{column: name}).dropped[0]
    assert name in line and "Choose one of the list" in line and "planner" not in line
    assert ("upload" in line) == (column != "engine")


def test_aliases_and_slices_are_names() -> None:
    found = link(model="nvidia/Llama-3.1-70B-Instruct-FP8", gpu="h100-sxm:2g.20gb")
    assert found.dropped == ()
    assert found.form.scenario.gpu == "h100-sxm:2g.20gb"


def test_what_a_link_does_not_say_is_blank_and_not_the_newcomers_value() -> None:
    assert link(model="Qwen/Qwen3-8B").form.scenario.concurrency is None


def test_a_pasted_web_address_names_its_repository() -> None:
    address = "https://huggingface.co/Qwen/Qwen3-32B/tree/main"
    assert column_value("model", address, Names()) == "Qwen/Qwen3-32B"


def test_a_name_in_a_person_s_words_becomes_a_repository_and_one_that_states_a_format_stays() -> None:
    assert column_value("model", "llama 3.3 70b instruct", Names()) == "meta-llama/Llama-3.3-70B-Instruct"
    assert column_value("model", "Qwen3-8B-Q4_K_M.gguf", Names()) == "Qwen3-8B-Q4_K_M.gguf"
