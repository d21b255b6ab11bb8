"""What passes and what does not, scorer by scorer."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jsonschema")

from planner.quality.examples import Answer, Example, Scorer, ScorerKind
from planner.quality.scorers import passes, unsuited
from planner.quality.scorers.structured import calls_agree
from planner.quality.scorers.text import choice, number

SCHEMA = {"type": "object", "required": ["total"], "properties": {"total": {"type": "number"}}}
WEATHER = [{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}]


def example(**fields: Any) -> Example:
    return Example.model_validate({"id": "a", "prompt": "?", **fields})


def scored(kind: str, output: str, options: dict[str, Any] | None = None, **fields: Any) -> bool:
    scorer, one = Scorer.model_validate({"kind": kind, **(options or {})}), example(**fields)
    assert unsuited(scorer, one) is None
    return passes(scorer, one, Answer(id="a", output=output))


@pytest.mark.parametrize(
    ("kind", "reference", "right", "wrong"),
    [
        ("exact", "Yes", " Yes\n", "yes"),
        ("normalised", "The Hague", ' "the  hague." ', "Hague"),
        ("numeric", 1234.5, "About 3 apples cost $1,234.50", "1234.6"),
        ("numeric", "-0.5", "x = -5e-1", "0.5"),
        ("choice", "B", "The answer is (B).", "A) because B is wrong"),
        ("contains", "net  30", "Payment: NET 30 days", "net 60"),
        ("regex", r"^INV-\d{4}$", "INV-2041", "INV-20"),
        ("json", None, '```json\n{"a": [1]}\n```', 'Here it is: {"a": 1}'),
    ],
)
def test_a_scorer_passes_the_right_and_fails_the_wrong(kind: str, reference: Any, right: str, wrong: str) -> None:
    assert scored(kind, right, reference=reference)
    assert not scored(kind, wrong, reference=reference)
    assert not scored(kind, "", reference=reference)


def test_a_number_may_be_off_by_its_tolerance_and_no_more() -> None:
    assert scored("numeric", "10.4", {"tolerance": 0.5}, reference=10)
    assert not scored("numeric", "10.6", {"tolerance": 0.5}, reference=10)
    assert scored("numeric", "101", {"relative_tolerance": 0.01}, reference=100)


@pytest.mark.parametrize(
    ("text", "value"),
    [("5.", 5.0), ("in 2024, 7 of them", 7.0), ("1,000,000", 1e6), ("1e400", None), ("none", None), ("-.5", -0.5)],
)
def test_the_last_number_is_read(text: str, value: float | None) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    ("text", "letter"),
    [("c", "C"), ("**D**", "D"), ("A) red", "A"), ("I think the answer is: b", "B"), ("It is a dog", None), ("", None)],
)
def test_the_chosen_letter_is_read(text: str, letter: str | None) -> None:
    assert choice(text) == letter


@pytest.mark.parametrize("output", ["[1, 2", '{"a": 1, "a": 2}', "NaN", "[" * 5000, "7", '{"a": Infinity}'])
def test_broken_json_fails(output: str) -> None:
    assert not scored("json", output)


def test_a_schema_decides_on_the_json() -> None:
    assert scored("json_schema", '{"total": 3}', schema=SCHEMA)
    assert not scored("json_schema", '{"total": "3"}', schema=SCHEMA)
    assert not scored("json_schema", "no JSON", schema=SCHEMA)


@pytest.mark.parametrize("schema", [None, {"type": "objekt"}, {"$ref": "https://example.org/x.json"}, 5])
def test_a_schema_that_is_not_one_is_refused(schema: Any) -> None:
    said = unsuited(Scorer(kind=ScorerKind.JSON_SCHEMA), example(schema=schema))
    assert said and "schema" in said


def test_tool_calls_agree_in_names_and_arguments() -> None:
    nested = {"type": "function", "function": {"name": "weather", "arguments": '{"days": 2.0, "city": "Oslo"}'}}
    assert calls_agree([nested], WEATHER)
    assert not calls_agree([nested, nested], WEATHER)
    assert not calls_agree([], WEATHER)
    assert calls_agree([], [])
    assert not calls_agree([{"name": "weather", "arguments": {"city": "Oslo", "days": True}}], WEATHER)
    assert not calls_agree([{"name": "weather", "arguments": "{broken"}], WEATHER)


@pytest.mark.parametrize(
    ("kind", "reference", "said"),
    [
        ("exact", None, "text"),
        ("numeric", "many", "number"),
        ("choice", "blue", "letter"),
        ("regex", "(", "pattern"),
        ("tool_call", "weather", "calls"),
        ("contains", {"a": 1}, "text"),
    ],
)
def test_a_scorer_that_does_not_fit_says_why(kind: str, reference: Any, said: str) -> None:
    assert said in str(unsuited(Scorer(kind=ScorerKind(kind)), example(reference=reference)))


def test_a_pattern_that_backtracks_without_end_is_stopped() -> None:
    begun = time.monotonic()
    assert not scored("regex", "a" * 40 + "!", {"text": "(a+)+$", "timeout_s": 0.5})
    assert time.monotonic() - begun < 10


ADD = "assert add(2, 3) == 5"


@pytest.mark.parametrize(
    ("output", "right"),
    [
        ("```python\ndef add(a, b):\n    return a + b\n```", True),
        ("def add(a, b):\n    print('noise')\n    return a + b", True),
        ("def add(a, b):\n    return a - b", False),
        ("import os\nos._exit(0)", False),
        ("raise SystemExit(0)", False),
        ("while True: pass", False),
        ("x = bytearray(4 << 30)\ndef add(a, b): return 5", False),
        ("not python at all", False),
    ],
)
def test_unit_tests_pass_for_right_code_only(output: str, right: bool) -> None:
    assert scored("unit_test", output, {"timeout_s": 2.0}, reference=ADD) is right


def test_code_of_an_answer_sees_neither_the_environment_nor_our_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PLANNER_BASELINE_API_KEY", "sk-secret")
    monkeypatch.chdir(tmp_path)
    code = "import os\nopen('trace', 'w').write('x')\nx = 'sk-secret' in str(os.environ)\ndef add(a, b): return 5 - x"
    assert scored("unit_test", code, reference=ADD)
    assert not list(tmp_path.iterdir())


def test_processes_that_an_answer_leaves_behind_are_ended(tmp_path: Path) -> None:
    late = tmp_path / "late"
    child = f"import time; time.sleep(2); open({str(late)!r}, 'w')"
    code = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {child!r}])\ndef add(a, b): return 5"
    assert scored("unit_test", code, {"timeout_s": 5.0}, reference=ADD)
    time.sleep(3)
    assert not late.exists()


def test_the_code_of_an_answer_has_no_network_where_the_system_allows_it() -> None:
    alone = "import ctypes, sys; u = ctypes.CDLL(None).unshare; sys.exit(u(0x40000000) and u(0x50000000))"
    if sys.platform != "linux" or subprocess.run([sys.executable, "-c", alone], check=False).returncode:
        pytest.skip("the system does not let a process give up its network")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), 1).close()
        reach = f"import socket\ndef reach():\n    socket.create_connection(('127.0.0.1', {port}), 1)"
        caught = "try:\n    reach()\nexcept OSError:\n    pass\nelse:\n    raise AssertionError"
        assert scored("unit_test", reach, reference=caught)


def test_meaning_is_near_when_words_differ() -> None:
    pytest.importorskip("wordllama")
    one = example(reference="Refunds take five working days.")
    wanted = Scorer(kind=ScorerKind.SEMANTIC)
    assert unsuited(wanted, one) is None
    assert passes(wanted, one, Answer(id="a", output="You get your refund within 5 business days."))
    assert not passes(wanted, one, Answer(id="a", output="The lamp arrived broken."))
    assert not passes(wanted, one, Answer(id="a", output=" "))


def test_without_an_embedding_model_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    why = unsuited(Scorer(kind=ScorerKind.SEMANTIC), example(reference="a word"))
    assert why == "needs an embedding model: pip install 'llm-capacity-planner[semantic]'"
