"""A file of examples or answers: what is read, and the one line that says what is wrong with which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jsonschema")

from planner.errors import PlannerError
from planner.quality.check import assigned, matched
from planner.quality.examples import TEMPLATE, Answer, Scorer, ScorerKind, read_answers, read_examples

GOOD = [{"id": f"e{i}", "prompt": f"question {i}", "reference": "yes"} for i in range(12)]


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def with_row(tmp_path: Path, row: Any) -> Path:
    return written(tmp_path / "mine.jsonl", [*GOOD[:3], row, *GOOD[3:]])


def test_the_template_is_read_and_each_of_its_examples_has_a_scorer() -> None:
    examples = read_examples(TEMPLATE)
    kinds = {scorer.kind for own in assigned(examples).values() for scorer in own}
    assert len(examples) >= 10 and len(kinds) >= 7


def test_json_lines_and_csv_give_the_same_examples(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    lines = [f'{row["id"]},"{row["prompt"]}",yes,"a; b",exact' for row in GOOD]
    table.write_text("\ufeffid,prompt,reference,tags,scorers\r\n" + "\r\n".join(lines) + "\r\n", "utf-8")
    rows = [{**row, "tags": ["a", "b"], "scorers": ["exact"]} for row in GOOD]
    assert read_examples(table) == read_examples(written(tmp_path / "mine.jsonl", rows))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": "bad", "reference": "x"}, "line 4: example 'bad': has neither prompt nor messages"),
        ({"id": "bad", "prompt": " "}, "example 'bad': its prompt is empty"),
        ({"id": "bad", "prompt": "x", "messages": [{"role": "user"}]}, "both prompt and messages"),
        ({"id": "bad", "messages": [{"content": "x"}]}, "a message has no role"),
        ({"prompt": "x"}, "line 4: an example without id"),
        ({"id": "e1", "prompt": "x"}, "line 4: the id 'e1' stands already in line 2"),
        ({"id": "bad", "prompt": "x", "promt": "y"}, "example 'bad': promt"),
        ({"id": "bad", "prompt": "x", "scorers": ["exakt"]}, "example 'bad': scorers.0.kind"),
        ('{"id": "bad", ', "line 4: not JSON"),
        ("[1]", "line 4: not an object"),
        ('{"id": "a", "id": "b"}', "the key 'id' stands twice"),
    ],
)
def test_a_bad_example_is_named_in_one_line(tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(PlannerError) as refused:
        read_examples(with_row(tmp_path, row))
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("count", [0, 9, 10_001])
def test_too_few_or_too_many_examples_are_refused(tmp_path: Path, count: int) -> None:
    rows = [{"id": f"e{i}", "prompt": "x"} for i in range(count)]
    with pytest.raises(PlannerError, match=f"{count} examples; a check takes 10 to 10,000"):
        read_examples(written(tmp_path / "mine.jsonl", rows))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,prompt\na,b,c\n", "line 2: example 'a' has more or fewer cells"),
        ('id,prompt\n"a,b\n', "not CSV"),
        ("id,prompt\n,x\n", "without id"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.csv").write_text(text, "utf-8")
    with pytest.raises(PlannerError, match=said):
        read_examples(tmp_path / "mine.csv")


def test_a_scorer_that_fits_no_example_is_named(tmp_path: Path) -> None:
    examples = read_examples(written(tmp_path / "mine.jsonl", GOOD))
    with pytest.raises(PlannerError, match=r"'e0': none of the scorers fits it .*json_schema needs a schema"):
        assigned(examples, [Scorer(kind=ScorerKind.JSON_SCHEMA)])
    with pytest.raises(PlannerError, match="the scorer numeric fits no example; it needs a reference that is a number"):
        assigned(examples, [Scorer(kind=ScorerKind.EXACT), Scorer(kind=ScorerKind.NUMERIC)])


def test_a_schema_that_is_not_one_is_named_with_its_example(tmp_path: Path) -> None:
    examples = read_examples(with_row(tmp_path, {"id": "bad", "prompt": "x", "schema": {"type": "objekt"}}))
    with pytest.raises(PlannerError, match=r"example 'bad': .*schema that is not one"):
        assigned(examples)


def test_an_example_that_nothing_scores_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlannerError, match="example 'bad': no scorer is given"):
        assigned(read_examples(with_row(tmp_path, {"id": "bad", "prompt": "x"})))


def test_unit_tests_run_only_when_allowed(tmp_path: Path) -> None:
    row = {"id": "code", "prompt": "x", "reference": "assert f()", "scorers": ["unit_test"]}
    examples = read_examples(with_row(tmp_path, row))
    with pytest.raises(PlannerError, match=r"example 'code': unit_test runs code .*--run-tests"):
        assigned(examples)
    assert assigned(examples, run_tests=True)["code"][0].kind is ScorerKind.UNIT_TEST


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"id": "e1"}], "^baseline: a.jsonl, line 1: example 'e1' has neither output nor tool_calls"),
        ([{"id": "e1", "output": "x"}] * 2, "^baseline: .*line 2: the id 'e1' stands twice"),
        ([{"output": "x"}], "^baseline: .*without id"),
        ([], "^baseline: a.jsonl holds no answer"),
    ],
)
def test_bad_answers_name_the_side(tmp_path: Path, rows: list[Any], said: str) -> None:
    with pytest.raises(PlannerError, match=said):
        read_answers(written(tmp_path / "a.jsonl", rows), "baseline")


def test_answers_to_other_examples_name_the_side_and_one_of_them(tmp_path: Path) -> None:
    examples = read_examples(written(tmp_path / "mine.jsonl", GOOD))
    answers = [Answer(id=row["id"], output="yes") for row in GOOD]
    matched(examples, answers, "candidate")
    with pytest.raises(PlannerError, match=r"^candidate: lacks an answer to: 'e0' and 1 more"):
        matched(examples, answers[2:], "candidate")
    with pytest.raises(PlannerError, match=r"^candidate: answers an example that is not there: 'zz'"):
        matched(examples, [*answers, Answer(id="zz", output="x")], "candidate")
